"""What feeding costs the step loop: tensors in memory, the local reader and Ray Data, turn by turn under Ray Train.

    python -m benchmarks.ingest [--workers N] [--turns N] [--steps N] [--warmup N] [--threads N] [--out FILE]
                                [--lake URI] [--json]

Every turn is the beginning of a long run by the trainer's own `run_training`; only the source of its batches differs.
One worker with all cores takes memory, reader and Ray Data in turn, two DDP workers memory and Ray Data, so that all
meet the same neighbours on the machine. The first ``--warmup`` steps, in which a stream starts its processes and reads
ahead, are shown apart ("at first"). Medians over turns, with minimum and maximum; ratios are of turns that followed
each other. CPU seconds are those of all processes of this Ray in the measured steps: what feeding costs, whoever else
is on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.arguments import whole
from benchmarks.lake import machine
from benchmarks.processes import cpu_seconds
from datalake import Lake, Manifest, Plan, Source, content_digest, digest_of, shard_layout, write_shard
from orchestration.cluster.cores import local_cores
from orchestration.cluster.session import ray_session
from orchestration.training.ray_data import all_from_ray_data
from trainer import Batch, BatchesFactory, Ranks, TrainDataset, TrainJob, local_batches, parse_config, run_training

SEQ_LEN = 256
ROWS = 8192
SHARD = 1024
VOCAB = 258
BATCH = 8
LOG_EVERY = 10
MOST_STEPS = 1000  # of a turn
RUN_STEPS = 20_000  # of the run that a turn is the beginning of: a stream that is not about to end, as in earnest


def memory_batches(
    plan: Plan, start_step: int, _steps: int, world: int, rank: int, datasets: Sequence[TrainDataset]
) -> Iterator[Batch]:
    """The batches of the turn, made before its first step."""
    reader = datasets[0].reader()
    rows = [plan.rank_rows(step, world, rank) for step in range(start_step, start_step + MOST_STEPS)]
    return iter([Batch(start_step + at, each, reader.rows(each[:, 1])) for at, each in enumerate(rows)])


WAYS: dict[str, BatchesFactory] = {"memory": memory_batches, "reader": local_batches, "ray data": all_from_ray_data}


def make_dataset(lake: Lake) -> str:
    """Uniform tokens: what they are makes no difference to speed."""
    spec = {"family": "benchmark", "rows": ROWS, "seq_len": SEQ_LEN}
    source = Source(
        kind="synthetic", spec=spec, spec_digest=digest_of(spec), seed=0, generator="0", shard_sequences=SHARD
    )
    shards = []
    for first, rows in shard_layout(ROWS, SHARD):
        tokens = np.random.default_rng(first).integers(0, VOCAB, (rows, SEQ_LEN), dtype=np.uint16)
        column = pa.Array.from_buffers(pa.binary(2 * SEQ_LEN), rows, [None, pa.py_buffer(tokens.tobytes())])
        table = pa.table({"sequence_id": np.arange(first, first + rows), "tokens": column})
        shards.append(write_shard(lake.store, source, table, first))
    digest = content_digest(lake.store, shards)
    manifest = Manifest.build(source, shards, seq_len=SEQ_LEN, vocab_size=VOCAB, content_digest=digest)
    return lake.datasets.commit("ingest", manifest).ref


def worker(job: dict[str, Any]) -> None:
    """All turns of one rank; rank 0 writes what it saw, a line a turn."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    lake, config = Lake.open(job["lake"]), parse_config(job["config"])
    threads = job["threads"] or max(1, local_cores() // context.get_local_world_size())
    for number in range(job["turns"] + 1):  # the first warms up
        for way in job["ways"]:
            seen: list[dict[str, Any]] = []
            stop = threading.Event()

            def watch(event: dict[str, Any], seen: list[dict[str, Any]] = seen, stop: threading.Event = stop) -> None:
                if event["event"] == "step":
                    seen.append({**event, "cpu_s": cpu_seconds(job["driver"]) if rank == 0 else 0.0})
                    if event["step"] >= job["steps"]:
                        stop.set()

            run_training(
                TrainJob(config, lake, f"world-{world}-{way.replace(' ', '-')}-{number}", batches=WAYS[way]),
                Ranks.here(rank, world),
                threads=threads,
                on_event=watch,
                stop=stop,
            )
            if number and rank == 0:
                with Path(job["out"]).open("a") as out:
                    out.write(
                        json.dumps({"world": world, "way": way, "turn": number, **summed(seen, job["warmup"])}) + "\n"
                    )


def summed(steps: list[dict[str, Any]], warmup: int) -> dict[str, float]:
    """Tokens per second and data-wait share of the log intervals after step ``warmup``; tokens per second until then,
    and the wait within the first interval."""
    tokens = steps[0]["tokens"]
    seconds = [tokens / each["tokens_per_s"] for each in steps]
    waits = [each["data_wait"] * length for each, length in zip(steps, seconds, strict=True)]
    start = max(1, sum(each["step"] <= warmup for each in steps))
    return {
        "tokens_per_s": tokens * (len(steps) - start) / sum(seconds[start:]),
        "start_tokens_per_s": tokens * start / sum(seconds[:start]),
        "data_wait": sum(waits[start:]) / sum(seconds[start:]),
        "first_batch_s": waits[0],
        "cpu_s": steps[-1]["cpu_s"] - steps[start - 1]["cpu_s"],
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(job: dict[str, Any], workers: int, ways: list[str]) -> dict[str, Any]:
    """One Ray Train run of all turns: per way its figures, and its tokens/s over those of memory in the same turn."""
    with tempfile.TemporaryDirectory() as scratch:
        TorchTrainer(
            worker,
            train_loop_config={**job, "ways": ways},
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(name="ingest", storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
        ).fit()
    turns = [json.loads(line) for line in Path(job["out"]).read_text().splitlines()]
    return figures_of([turn for turn in turns if turn["world"] == workers])


def figures_of(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The turns of one number of workers, way by way."""
    by_way: dict[str, list[dict[str, Any]]] = {}
    for turn in turns:
        by_way.setdefault(turn["way"], []).append(turn)
    figures: dict[str, Any] = {}
    for way, found in by_way.items():
        figures[way] = {
            key: spread([turn[key] for turn in found])
            for key in ("tokens_per_s", "start_tokens_per_s", "data_wait", "first_batch_s", "cpu_s")
        }
        pairs = list(zip(found, by_way["memory"], strict=False))
        figures[way]["of_memory"] = spread([mine["tokens_per_s"] / base["tokens_per_s"] for mine, base in pairs])
        figures[way]["cpu_of_memory"] = spread([mine["cpu_s"] / base["cpu_s"] for mine, base in pairs])
    return figures


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}; {result['model']}, {BATCH} × {SEQ_LEN} tokens a step, {result['turns']} turns"]
    for workers, figures in result["workers"].items():
        for way, each in figures.items():
            speed, wait, ratio, first = (
                each[key] for key in ("tokens_per_s", "data_wait", "of_memory", "first_batch_s")
            )
            lines.append(
                f"{workers} worker(s) {way:>9}: {speed['median']:9,.0f} tokens/s"
                f" ({speed['min']:,.0f}–{speed['max']:,.0f})"
                f"  {ratio['median']:.3f} of memory ({ratio['min']:.3f}–{ratio['max']:.3f})"
                f"  CPU {each['cpu_of_memory']['median']:.3f} of memory's"
                f"  data wait {wait['median']:.2%} (to {wait['max']:.2%})  first batch {first['median']:.2f} s,"
                f" at first {each['start_tokens_per_s']['median']:,.0f} tokens/s"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=whole(), default=5)
    parser.add_argument("--steps", type=whole(), default=500, help=f"of a turn, {MOST_STEPS} at most")
    parser.add_argument("--warmup", type=whole(0), default=250, help="steps of a turn that are shown apart")
    parser.add_argument("--dim", type=whole(), default=128)
    parser.add_argument("--layers", type=whole(), default=2)
    parser.add_argument("--lake", help="a folder or s3://bucket/prefix; a temporary folder if left out")
    parser.add_argument("--workers", type=whole(), choices=(1, 2), help="only this many workers; both by default")
    parser.add_argument("--threads", type=whole(), help="of each worker; its share of the cores by default")
    parser.add_argument("--out", help="a file that gets a line of JSON after every turn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 2 * LOG_EVERY <= options.steps < MOST_STEPS:
        parser.error(f"--steps {options.steps}: must lie in {2 * LOG_EVERY} to {MOST_STEPS - 1}")
    if not 0 <= options.warmup <= options.steps - LOG_EVERY:
        parser.error(f"--warmup {options.warmup}: must lie in 0 to {options.steps - LOG_EVERY}")
    config = {
        "model": {"depth": 1, "dim": options.dim, "layers": options.layers},
        "data": [{"dataset": "ingest@1"}],
        "steps": RUN_STEPS,
        "batch_sequences": BATCH,
        "checkpoint_every": RUN_STEPS,
        "log_every": LOG_EVERY,
        "spike_nats": None,
    }
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        lake = Lake.open(options.lake or f"{scratch}/lake")
        make_dataset(lake)
        job = {
            "lake": lake.uri,
            "config": config,
            "turns": options.turns,
            "steps": options.steps,
            "warmup": options.warmup,
            "driver": os.getpid(),
            "threads": options.threads,
            "out": options.out or f"{scratch}/turns.jsonl",
        }
        result: dict[str, Any] = {
            "machine": machine(),
            "model": f"{options.dim}×{options.layers}",
            "turns": options.turns,
            "workers": {},
        }
        for workers, ways in {1: list(WAYS), 2: ["memory", "ray data"]}.items():
            if options.workers in (None, workers):
                result["workers"][workers] = measure(job, workers, ways)
    print(json.dumps(result, indent=2) if options.json else as_text(result))


if __name__ == "__main__":
    main()
