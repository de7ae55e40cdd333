"""The lake's book-keeping at a million shards, and what big datasets cost: ``python -m benchmarks.scale [--markdown]``.

A manifest of ``--shards`` shards is made, committed, opened, planned and resumed, each stage in a process of its own so
that its memory is its own. The shards are empty files: only the book-keeping is under test. ``--markdown`` prints the
tables of docs/scale.md, the costs from the figures in ``benchmarks.scale_costs``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lanes
from benchmarks.arguments import whole
from benchmarks.scale_costs import SEQ_LEN, SHARD_ROWS, SHARD_TOKENS, SIZES, cost_tables
from datalake import DatasetReader, Lake, Manifest, Plan, PlanSource, ShardRef, Source, digest_of, shard_key

BATCH = 512
STEPS = 1000
SHARD_BYTES = 2 * SHARD_TOKENS
FOOTER_BYTES = 4750


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shards", type=whole(), default=1_000_000)
    arguments.add_argument("--markdown", action="store_true")
    arguments.add_argument("--stage", choices=sorted(STAGES), help="one stage alone, in this process, on --lake")
    arguments.add_argument("--lake", type=Path)
    options = arguments.parse_args()
    if options.stage:
        print(json.dumps(STAGES[options.stage](options.lake, options.shards)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {stage: _in_a_process(stage, scratch, options.shards) for stage in STAGES}
    print(as_markdown(found, options.shards) if options.markdown else json.dumps(found, indent=2))


def _in_a_process(stage: str, lake: str, shards: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--stage", stage, "--lake", lake, "--shards", str(shards)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def commit(folder: Path, shards: int) -> dict[str, Any]:
    """Make references, manifest and placeholders; commit in one append."""
    clock = Clock()
    source = _source()
    with clock("make references"):
        refs = [
            ShardRef(
                key=shard_key(source, number * SHARD_ROWS, SHARD_ROWS),
                first=number * SHARD_ROWS,
                rows=SHARD_ROWS,
                bytes=SHARD_BYTES,
                sha256=hashlib.sha256(number.to_bytes(8, "little")).hexdigest(),
                footer_bytes=FOOTER_BYTES,
                footer_sha256=hashlib.sha256(number.to_bytes(9, "little")).hexdigest(),
            )
            for number in range(shards)
        ]
    (folder / refs[0].key).parent.mkdir(parents=True)
    for ref in refs:
        (folder / ref.key).touch()  # committing looks whether shards are there, not into them
    lake = Lake.open(str(folder))
    with clock("check and serialise"):
        manifest = Manifest.build(source, refs, seq_len=SEQ_LEN, vocab_size=10_002, content_digest="0" * 64)
        size = len(manifest.canonical)
        manifest.digest  # noqa: B018 - computed here, so that it is not counted as the commit's
    with clock("commit"):
        lake.datasets.commit("scale", manifest)
    entries = len(list(lake.store.list("datasets/scale/")))
    return clock.report() | {"manifest_bytes": size, "log_entries": entries}


def open_and_plan(folder: Path, shards: int) -> dict[str, Any]:
    """Open the version, then plan steps anywhere in its first four epochs and find their shards."""
    clock = Clock()
    with clock("open"):
        manifest = Lake.open(str(folder)).datasets.manifest("scale@1")
    with clock("reader"):
        reader = DatasetReader(Lake.open(str(folder)).store, manifest)
    steps = np.random.Generator(np.random.Philox(1)).integers(0, 4 * len(reader) // BATCH, STEPS)
    plan = Plan([PlanSource(len(reader), 1.0, manifest.digest)], seed=1, batch=BATCH)
    with clock(f"rows of {STEPS} random steps"):
        for step in steps.tolist():
            plan.rows(step)
    assert len(reader) == shards * SHARD_ROWS
    return clock.report()


def resume(folder: Path, shards: int) -> dict[str, Any]:
    """What a process that takes a run over does before its first batch: open, plan, position, rows."""
    clock = Clock()
    with clock("resume"):
        manifest = Lake.open(str(folder)).datasets.manifest("scale@1")
        plan = Plan([PlanSource(manifest.sequences, 1.0, manifest.digest)], seed=1, batch=BATCH)
        step = 3 * manifest.sequences // BATCH
        position, rows = plan.position(step)[0], plan.rows(step)
    assert position.epoch in (2, 3)
    assert len(rows) == BATCH
    assert shards == len(manifest.shards)
    return clock.report()


def fetches(_folder: Path, shards: int) -> dict[str, Any]:
    """What all processes of a world fetch in an epoch by lanes, as a multiple of the data, and their requests."""
    data = lanes.Data(shards, 1)
    return {str(world): lanes.steady(data, world, steps) for world, steps in ((1, 128), (64, 256), (1024, 512))}


STAGES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "commit": commit,
    "open": open_and_plan,
    "resume": resume,
    "fetches": fetches,
}


def _source() -> Source:
    spec = {"family": "benchmark"}
    return Source(
        kind="synthetic",
        spec=spec,
        spec_digest=digest_of(spec),
        seed=0,
        generator="0",
        shard_sequences=SHARD_ROWS,
        format=2,
    )


class Clock:
    """Seconds by stage, by the wall and of this process's CPU, and its largest resident memory after each."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._cpu_seconds: dict[str, float] = {}
        self._mib: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self._seconds[name] = round(time.perf_counter() - began, 3)
        self._cpu_seconds[name] = round(time.process_time() - cpu, 3)
        self._mib[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    def report(self) -> dict[str, Any]:
        return {"seconds": self._seconds, "cpu_seconds": self._cpu_seconds, "peak_mib": self._mib}


def as_markdown(found: dict[str, dict[str, Any]], shards: int) -> str:
    """The tables of docs/scale.md."""
    lines = [
        f"### Simulated: {shards:,} shards ({shards * SHARD_TOKENS / 1e12:.2f} T tokens), no data in them",
        "",
        "| process | stage | seconds | CPU-seconds | largest resident memory so far |",
        "| --- | --- | --- | --- | --- |",
    ]
    for process in ("commit", "open", "resume"):
        of = found[process]
        for stage, seconds in of["seconds"].items():
            spent = f"{seconds:.2f} | {of['cpu_seconds'][stage]:.2f}"
            lines.append(f"| {process} | {stage} | {spent} | {of['peak_mib'][stage]:,} MiB |")
    size = found["commit"]["manifest_bytes"]
    lines += [
        "",
        f"Manifest: {size:,} bytes, {size / shards:.1f} a shard; the dataset's log has "
        f"{found['commit']['log_entries']} entry.",
        "",
        "| world | fetched in an epoch by lanes, of the data | requests per GB | blocks held by a process |",
        "| --- | --- | --- | --- |",
        *(
            f"| {world} | {of['fetched']:.3f} | {of['requests_per_gb']:,.0f} | {of['held_mb']:.0f} MB |"
            for world, of in found["fetches"].items()
        ),
        "",
        *cost_tables(
            SIZES,
            manifest_bytes_per_shard=size / shards,
            opening_s=found["open"]["cpu_seconds"]["open"] / shards,
            fetched=max(of["fetched"] for of in found["fetches"].values()),
            gets_per_gb=max(of["requests_per_gb"] for of in found["fetches"].values()),
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
