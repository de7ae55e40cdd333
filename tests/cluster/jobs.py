"""The jobs that the schedules disturb, each as small as it can be and still be hit while it is at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from generator import parse_spec
from orchestration.corpus.add import add_corpus
from orchestration.generation.local import generate_here
from orchestration.generation.request import GenerateRequest
from tests.cluster.schedule import Job
from tests.ray_fixtures import ROOT, TINY_SPEC, free_port, inline_toml
from trainer import Ranks, TrainJob, load_metrics, parse_config, run_training
from trainer.parallel import Parallel

# In the slow backend a shard takes a third of a second.
SPEC = TINY_SPEC | {"burn_in": 150}
SHARDS, SHARD = 60, 32
STEPS = 32
ARM_STEPS = 200
LIBRARY = Path(json.__file__).parents[1]
FOLDERS = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest")
TEXTS = [str(LIBRARY / name) for name in FOLDERS]
ROW = 16  # short, so that there are many shards of 512 rows

TRAINING: dict[str, Any] = {
    "data": [{"dataset": "tiny@1"}],
    "steps": STEPS,
    "batch_sequences": 12,
    "checkpoint_every": 4,
    "eval_every": 16,
    "eval_sequences": 8,
    "log_every": 1,
    "precision": "fp32",
    "eval": ["other@1"],
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "publish": "tiny-model",
}
SEQUENCES = 96
# Twelve shards, any of which a step may need.
LIVE = {
    "params": "tiny@1",
    "tokens": SEQUENCES * TINY_SPEC["seq_len"],
    "shard_sequences": 8,
    "buffer_bytes": 2 * 12 * 8 * TINY_SPEC["seq_len"] * 2,
    "backend": "reference",
}
PIPELINE_FILE: dict[str, Any] = {
    "name": "tiny",
    "params": SPEC,
    "generate": {"tokens": 24 * SHARD * SPEC["seq_len"], "shard_sequences": SHARD, "heldout_sequences": 0},
    "pre": {name: value for name, value in TRAINING.items() if name not in ("data", "publish")} | {"eval": ["tiny@1"]},
}
# A pre-pre-training, and then two trainings side by side.
EXPERIMENT_FILE: dict[str, Any] = {
    "name": "hosts",
    "question": "Does it all arrive?",
    "seeds": [1],
    "factors": {"pre": ["none", "nca"]},
    "corpus": {"name": "text", "paths": TEXTS[:2], "patterns": ["*.py"], "seq_len": 128},
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "pre": {
        "gate_sequences": 8,
        "spec": {"grid": [6, 6], "colors": 3, "embed": 2, "hidden": 4, "burn_in": 2, "seq_len": 128},
        "train": {"steps": ARM_STEPS, "batch_sequences": 4, "checkpoint_every": 4},
    },
    "train": {
        "steps": ARM_STEPS,
        "batch_sequences": 4,
        "eval_sequences": 8,
        "eval_every": ARM_STEPS,
        "checkpoint_every": 4,
        "log_every": 1,
    },
    "power": {"sd": 0.01},
}


def put_params(lake: Lake) -> None:
    lake.params.put("tiny", parse_spec(SPEC).model_dump(mode="json"))


def put_planned(lake: Lake) -> None:
    """Parameters from which a training makes its dataset itself, and another dataset to evaluate on."""
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    generate_here(lake, GenerateRequest(params, 8 * TINY_SPEC["seq_len"], dataset="other", seed=1))


def put_dataset(lake: Lake) -> None:
    put_planned(lake)
    generate_here(
        lake, GenerateRequest(lake.params.get("tiny@1"), SEQUENCES * TINY_SPEC["seq_len"], shard_sequences=SHARD)
    )


def put_nothing(_lake: Lake) -> None:
    pass


def datasets(lake: Lake) -> dict[str, str]:
    """Every dataset version's digest; each verified, and one version however many drivers committed it."""
    found = {}
    for name in sorted({version.name for version in lake.datasets.list()}):
        versions = lake.datasets.history(name)
        assert [version.version for version in versions] == [1]
        assert verify_dataset(lake.store, lake.datasets.manifest(f"{name}@1")).ok
        found[name] = versions[0].digest
    return found


def training(lake: Lake, run: str = "run", model: str = "tiny-model") -> dict[str, Any]:
    """What a training leaves: the loss of every step, the model's files, and the datasets."""
    losses = losses_of(lake, run)
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert [version.version for version in lake.models.history(model)] == [1]
    return {"losses": losses, "model": dict(lake.models.get(model).files), "datasets": datasets(lake)}


def pipeline(lake: Lake) -> dict[str, Any]:
    return training(lake, "run-pre", "tiny-pre")


def experiment(lake: Lake) -> dict[str, Any]:
    """What an experiment leaves: every run's losses, and the datasets. An arm has one run, however often it began."""
    runs = [run for run in lake.runs.list() if not run.startswith("experiment-")]
    assert {lake.runs.get(run).state["status"] for run in runs} == {"finished"}
    return {"runs": {run: losses_of(lake, run) for run in runs}, "datasets": datasets(lake)}


def losses_of(lake: Lake, run: str) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in load_metrics(lake, run) if "loss" in row]


GENERATE = Job(
    "generate",
    ("generate", "tiny@1", "--tokens", str(SHARDS * SHARD * SPEC["seq_len"]), "--shard-sequences", str(SHARD),
     "--backend", "reference", "--run", "run"),
    SHARDS,
    put_params,
    datasets,
)  # fmt: skip
TRAIN = Job(
    "train",
    ("train", "/tmp/train.toml", "--run", "run", "--workers", "2"),
    STEPS,
    put_dataset,
    training,
    {"train.toml": inline_toml(TRAINING)},
)
FSDP = Job("fsdp", (*TRAIN.command, "--parallel", "fsdp"), STEPS, put_dataset, training, TRAIN.files)
TRAIN_LIVE = Job(
    "live",
    ("train", "/tmp/live.toml", "--run", "run", "--workers", "2", "--live", "--live-report", "/tmp/live.html"),
    STEPS + SEQUENCES // LIVE["shard_sequences"],
    put_planned,
    training,
    {"live.toml": inline_toml({**TRAINING, "live": LIVE})},
)
PIPELINE = Job(
    "pipeline",
    ("pipeline", "/tmp/tiny.toml", "--run", "run", "--backend", "reference", "--workers", "2"),
    24 + STEPS,
    put_nothing,
    pipeline,
    {"tiny.toml": inline_toml(PIPELINE_FILE)},
)
EXPERIMENT = Job(
    "experiment",
    ("experiment", "/tmp/hosts.toml", "--report", "/tmp/report"),
    2 * ARM_STEPS,
    put_nothing,
    experiment,
    {"hosts.toml": inline_toml(EXPERIMENT_FILE)},
)
CORPUS = Job(
    "corpus",
    ("corpus", "add", "text", *TEXTS, "--pattern", "*.py", "--ray", "--seq-len", str(ROW)),
    200,
    put_nothing,
    datasets,
)  # fmt: skip


def undisturbed_datasets(folder: Path) -> dict[str, str]:
    """What GENERATE leaves, made without any cluster."""
    lake = Lake.open(str(folder / "generated"))
    put_params(lake)
    generate_here(
        lake, GenerateRequest(lake.params.get("tiny@1"), SHARDS * SHARD * SPEC["seq_len"], shard_sequences=SHARD)
    )
    return datasets(lake)


def undisturbed_corpus(folder: Path) -> dict[str, Any]:
    """What CORPUS leaves, made without any cluster."""
    lake = Lake.open(str(folder / "text"))
    add_corpus(lake, "text", TEXTS, patterns=["*.py"], seq_len=ROW)
    return datasets(lake)


def undisturbed_training(folder: Path, parallel: Parallel = "ddp") -> dict[str, Any]:
    """What TRAIN, TRAIN_LIVE (or FSDP) leaves, made by two processes without any cluster."""
    lake = Lake.open(str(folder / f"trained-{parallel}"))
    put_dataset(lake)
    program = f"from tests.cluster.jobs import two_ranks; two_ranks({free_port()}, {lake.uri!r}, {parallel!r})"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    return training(lake)


def two_ranks(port: int, uri: str, parallel: Parallel) -> None:
    """Train as two processes, the second a fork of this one: PyTorch is imported once."""
    child = os.fork()
    rank = 0 if child else 1
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    run_training(TrainJob(parse_config(TRAINING), Lake.open(uri), "run", parallel), Ranks.here(rank, 2), threads=1)
    dist.barrier()
    if child:
        os.waitpid(child, 0)
    os._exit(0)  # as in tests/trainer/test_ranks.py: C++ threads may still be at work
