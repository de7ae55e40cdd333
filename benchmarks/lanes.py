"""How many bytes an epoch fetches by lanes: ``python -m benchmarks.lanes [--shards N …] [--steps N] [--markdown]``.

``--epoch`` reads a whole epoch of one source in a world that changes every so many steps, all ranks of it, and counts
how often each row was given out; ``--memory`` says what this process takes while it reads all lanes of so many.

The plan and the readers are the trainer's; only the store is not one: it counts, and answers for every shard with the
bytes of one file, so that a manifest of any number of shards verifies. Steps are counted after so many that every lane
is within a block; of a large world some ranks are read, and stand for all. Fetched bytes are everything asked of the
store, footers included, but for the manifest, which each process opens once (docs/scale.md has its size).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.arguments import whole
from benchmarks.scale_costs import SEQ_LEN, SHARD_ROWS
from datalake import DatasetReader, Manifest, Plan, PlanSource, ShardRef, Source, digest_of, shard_key, write_shard
from datalake.plan.lanes import default_lanes, default_window
from datalake.shards.blocks import block_rows
from datalake.shards.shard_format import token_column
from datalake.store.local import LocalStore

BATCH = 1024
WORLDS = (1, 8, 64, 1024)
MIXTURE = (0.6, 0.3, 0.1)
CHANGES = (8, 64, 1, 8)
CHANGED_EVERY = 1000
WARM_UP = 128
RANKS = 4  # read of a world with more
AHEAD = 4  # steps fetched at once, as the trainer does


class OneFileStore(LocalStore):
    """Answers for every key with the same bytes, and counts them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(Path(tempfile.gettempdir()))
        self._data, self._lock = data, threading.Lock()
        self.bytes = self.requests = 0

    def get(self, key: str) -> bytes:
        return self.get_range(key, 0, len(self._data))

    def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002 - all are one
        found = self._data[start : start + length]
        with self._lock:
            self.bytes, self.requests = self.bytes + len(found), self.requests + 1
        return found

    def reset(self) -> None:
        """Count from nothing."""
        self.bytes = self.requests = 0


class Data:
    """``sources`` datasets of ``shards`` shards together, and the plan over them."""

    def __init__(self, shards: int, sources: int, batch: int = BATCH) -> None:
        weights = MIXTURE if sources > 1 else (1.0,)
        counts = [max(1, round(shards * weight)) for weight in weights]
        self.store, ref = _one_file()
        self.manifests = [_manifest(ref, count, seed) for seed, count in enumerate(counts)]
        lanes = default_lanes(batch)
        self.plan = Plan(
            [PlanSource(manifest.sequences, weight) for manifest, weight in zip(self.manifests, weights, strict=True)],
            seed=1,
            batch=batch,
            block_rows=block_rows(2 * SEQ_LEN),
            window_blocks=default_window(lanes),
            lanes=lanes,
        )

    def readers(self) -> list[DatasetReader]:
        """Those of one process."""
        return [DatasetReader(self.store, manifest) for manifest in self.manifests]

    def read(self, readers: Sequence[DatasetReader], steps: range, world: int, rank: int) -> int:
        """Read a rank's rows of ``steps`` as the trainer does; returns the most bytes of blocks held."""
        held = 0
        for start in range(steps.start, steps.stop, AHEAD):
            some = range(start, min(start + AHEAD, steps.stop))
            rows_TB2 = self.plan.rank_step_range(some, world, rank).reshape(len(some), -1, 2)
            for ahead in (True, False):
                for rows_B2 in [rows_TB2.reshape(-1, 2)] if ahead else rows_TB2:
                    for source, reader in enumerate(readers):
                        mine = rows_B2[rows_B2[:, 0] == source, 1]
                        if len(mine):
                            reader.prefetch(mine) if ahead else reader.rows(mine)
            held = max(held, sum(reader.held_bytes for reader in readers))
        return held


def steady(data: Data, world: int, steps: int) -> dict[str, Any]:
    """An epoch's fetched bytes as a multiple of the data, from ``steps`` steps in the middle of one."""
    first = data.plan.sources[0].rows // (3 * BATCH)
    ranks = np.unique(np.linspace(0, world - 1, min(world, RANKS)).astype(int)).tolist()
    fetched = requests = held = rows = 0
    for rank in ranks:
        readers = data.readers()
        data.read(readers, range(first, first + WARM_UP), world, rank)
        data.store.reset()
        counted = range(first + WARM_UP, first + WARM_UP + steps)
        held = max(held, data.read(readers, counted, world, rank))
        fetched, requests = fetched + data.store.bytes, requests + data.store.requests
        rows += steps * (BATCH // world)
    size = rows * 2 * SEQ_LEN
    return {"fetched": fetched / size, "requests_per_gb": requests / size * 1e9, "held_mb": held / 1e6}


def changing(data: Data) -> dict[str, Any]:
    """The same where the world changes every so many steps, and every process begins with nothing."""
    step, fetched, size, held = data.plan.sources[0].rows // (3 * BATCH), 0.0, 0, 0
    for world in CHANGES:
        steps = range(step, step + CHANGED_EVERY)
        ranks = np.unique(np.linspace(0, world - 1, min(world, RANKS)).astype(int)).tolist()
        data.store.reset()
        for rank in ranks:
            held = max(held, data.read(data.readers(), steps, world, rank))
        fetched += data.store.bytes * world / len(ranks)
        size += CHANGED_EVERY * BATCH * 2 * SEQ_LEN
        step = steps.stop
    return {"fetched": fetched / size, "requests_per_gb": 0.0, "held_mb": held / 1e6}


def whole_epoch(data: Data, every: int) -> dict[str, Any]:
    """An epoch of one source, the world changed every ``every`` steps, each process beginning with nothing: how often
    rows were given out, and bytes fetched as a multiple of the data."""
    rows, step, worlds = data.plan.sources[0].rows, 0, cycle(CHANGES)
    given = np.zeros(rows, dtype=np.uint8)
    changes = held = 0
    while step < rows // BATCH:
        steps, world = range(step, min(step + every, rows // BATCH)), next(worlds)
        for rank in range(world):
            np.add.at(given, data.plan.rank_step_range(steps, world, rank)[..., 1].ravel(), 1)
            held = max(held, data.read(data.readers(), steps, world, rank))
        step, changes = steps.stop, changes + 1
    size = rows * 2 * SEQ_LEN
    counts = {"least": int(given.min()), "most": int(given.max()), "rows": rows, "worlds": changes}
    return {**counts, "fetched": data.store.bytes / size, "held_mb": held / 1e6}


def memory(shards: int, sources: int, steps: int) -> dict[str, float]:
    """Resident memory of this process, in MB, with its manifests open, and the most while it reads all lanes."""
    data = Data(shards, sources)
    readers = data.readers()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is
    held = data.read(readers, range(steps), 1, 0)
    return {"before_mb": before, "most_mb": _resident("VmHWM"), "held_mb": held / 1e6}


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:"))


def measure(shards: int, steps: int, worlds: Sequence[int] = WORLDS) -> Iterator[dict[str, Any]]:
    """One line for each number of sources and world."""
    for sources in (1, len(MIXTURE)):
        data = Data(shards, sources)
        for world in worlds:
            began = time.perf_counter()
            found = steady(data, world, steps)
            yield {"shards": shards, "sources": sources, "world": world, **found, "s": time.perf_counter() - began}
        yield {"shards": shards, "sources": sources, "world": "changes", **changing(data), "s": 0.0}


def as_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """A table of docs/scale.md."""
    rows = ["| shards | sources | world | fetched, of the data | requests per GB | blocks held |", "|" + " --- |" * 6]
    for line in lines:
        requests = f"{line['requests_per_gb']:,.0f}" if line["requests_per_gb"] else "-"
        cells = (f"{line['shards']:,}", line["sources"], line["world"], f"{line['fetched']:.3f}", requests)
        rows.append(f"| {' | '.join(map(str, cells))} | {line['held_mb']:.0f} MB |")
    return "\n".join(rows)


def _one_file() -> tuple[OneFileStore, ShardRef]:
    tokens = np.random.Generator(np.random.Philox(1)).integers(0, 10_000, (SHARD_ROWS, SEQ_LEN), dtype=np.uint16)
    table = pa.table(
        {
            "sequence_id": np.arange(SHARD_ROWS),
            "tokens": token_column(tokens),
            "attempt": np.zeros(SHARD_ROWS, dtype=np.int32),
            "score": np.zeros(SHARD_ROWS),
            "score_normalized": np.zeros(SHARD_ROWS),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        ref = write_shard(store, _source(0), table, 0)
        return OneFileStore(store.get(ref.key)), ref


def _manifest(ref: ShardRef, shards: int, seed: int) -> Manifest:
    source = _source(seed)
    same = {"bytes": ref.bytes, "sha256": ref.sha256, "footer_bytes": ref.footer_bytes, "rows": SHARD_ROWS}
    refs = [
        ShardRef(key=shard_key(source, first, SHARD_ROWS), first=first, footer_sha256=ref.footer_sha256, **same)
        for first in range(0, shards * SHARD_ROWS, SHARD_ROWS)
    ]
    return Manifest.build(source, refs, seq_len=SEQ_LEN, vocab_size=10_002, content_digest="0" * 64)


def _source(seed: int) -> Source:
    spec = {"family": "benchmark", "seq_len": SEQ_LEN}
    named = {"kind": "synthetic", "spec": spec, "spec_digest": digest_of(spec), "seed": seed, "generator": "0"}
    return Source.model_validate({**named, "shard_sequences": SHARD_ROWS, "format": 2})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shards", type=whole(), nargs="+", default=[10_000, 1_000_000])
    arguments.add_argument("--steps", type=whole(), default=2560)
    arguments.add_argument("--markdown", action="store_true")
    arguments.add_argument("--epoch", type=whole(), metavar="STEPS", help="steps between changes of the world")
    arguments.add_argument("--memory", type=whole(), choices=(1, len(MIXTURE)), metavar="SOURCES")
    options = arguments.parse_args()
    if options.memory or options.epoch:
        for shards in options.shards:
            if options.epoch:
                print(json.dumps({"shards": shards, **whole_epoch(Data(shards, 1), options.epoch)}), flush=True)
            if options.memory:
                found = memory(shards, options.memory, options.steps)
                print(json.dumps({"shards": shards, "sources": options.memory, **found}), flush=True)
        return
    lines = []
    for shards in options.shards:
        for line in measure(shards, options.steps):
            lines.append(line)
            if not options.markdown:
                print(json.dumps(line), flush=True)
    if options.markdown:
        print(as_markdown(lines))


if __name__ == "__main__":
    main()
