"""Live feeding under pressure: ``python -m benchmarks.live [--seconds N] [--batch ROWS] [--json]``.

Two phases on a local Ray, with the `tiny` preset. In the first the generator is the slow one (one actor of the NumPy
reference) and the consumer takes what it can; in the second the consumer takes a batch every ``--pause`` seconds and
the generators could make far more. Memory that no other process shares, of this process and all of Ray's, is summed
every few seconds: flat means that nothing grows with what has been generated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.arguments import above_zero, whole
from datalake import Lake
from generator import load_preset
from orchestration.cluster.session import ray_session
from orchestration.live.config import LiveRequest
from orchestration.live.job import live_stream
from orchestration.live.stream import ask
from trainer import parse_config
from trainer.inputs import open_inputs

STEPS = 20_000
SHARD = 64  # the reference makes one in about a second
SAMPLE_S = 5.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=above_zero, default=300.0, help="of each phase")
    arguments.add_argument("--batch", type=whole(), default=32, help="rows a step")
    arguments.add_argument("--buffer-bytes", type=whole(), default=16 << 20)
    arguments.add_argument("--pause", type=above_zero, default=0.2, help="seconds a step of the slow consumer")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load": os.getloadavg()}
    with ray_session():
        for name, backend, actors, pause in (
            ("slow generator", "reference", 1, 0.0),
            ("slow consumer", "auto", None, options.pause),
        ):
            result[name] = phase(backend, actors, pause, options)
    print(json.dumps(result, indent=2) if options.json else as_text(result))


def phase(backend: str, actors: int | None, pause: float, options: argparse.Namespace) -> dict[str, Any]:
    """Feed for ``options.seconds`` and say what was counted and how memory went."""
    # A generator that is being killed may still write a shard.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lake = Lake.open(f"{folder}/lake")
        spec = load_preset("tiny")
        params = lake.params.put("tiny", spec.model_dump(mode="json"))
        config = parse_config(
            {
                "model": {"depth": 1, "dim": 16, "heads": 2},
                "data": [{"dataset": "live@1"}],
                "steps": STEPS,
                "batch_sequences": options.batch,
            }
        )
        tokens = STEPS * options.batch * spec.seq_len
        request = LiveRequest(
            params=params.ref,
            tokens=tokens,
            shard_sequences=SHARD,
            buffer_bytes=options.buffer_bytes,
            backend=backend,
            actors=actors,
        )
        with live_stream(lake, config, request, "benchmark") as stream:
            assert stream is not None, "a new lake has no dataset"
            batches = stream.batches(open_inputs(config, lake, stream.dataset).plan, 0, STEPS, 1, 0, [stream.dataset])
            memory = []
            for sample in consume(batches, pause, options.seconds):
                memory.append(sample)
                print(f"{backend}: {sample[0]:.0f} s, {sample[1]} MiB private", file=sys.stderr, flush=True)
            facts = ask(stream.feed.facts.remote())
            del batches
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    facts["timeline"] = facts["timeline"][:: max(1, len(facts["timeline"]) // 24)]
    return {**facts, "lake_bytes": on_disk, "private_mib_over_seconds": memory}


def consume(batches: Iterator[Any], pause: float, seconds: float) -> Iterator[tuple[float, int]]:
    """Take batches for ``seconds``; yields (seconds since the first, MiB of private memory) now and then."""
    next(batches)
    began = sampled = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        if now - sampled >= SAMPLE_S:
            sampled = now
            yield round(now - began, 1), private_mib()
        next(batches)
        time.sleep(pause)


def private_mib() -> int:
    """Anonymous memory of this process and its descendants, which are all of a local Ray."""
    parents, anonymous = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(fields["Pid"])] = int(fields["PPid"])
        anonymous[int(fields["Pid"])] = int(fields.get("RssAnon", "0 kB").split()[0])
    family = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(anonymous.get(pid, 0) for pid in family) // 1024


def as_text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{result['cpus']} CPUs, load {result['load'][0]:.1f}"]
    for name, facts in result.items():
        if isinstance(facts, dict):
            memory = [mib for _, mib in facts["private_mib_over_seconds"]]
            lines += [
                f"{name}: generated {facts['generated_tokens_per_s']:,.0f} tokens/s, consumed "
                f"{facts['consumed_tokens_per_s']:,.0f}; starved {facts['starvation_s']:.0f} s, throttled "
                f"{facts['throttled_s']:.0f} s",
                f"  held at most {facts['peak_bytes']:,} of {facts['buffer_bytes']:,} bytes",
                f"  written to the lake {facts['lake_bytes']:,} bytes",
                f"  private memory, MiB: {' '.join(map(str, memory[:: max(1, len(memory) // 16)]))}",
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
