"""The jobs that the schedules disturb, each as small as it can be and still be hit while it is at work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from generator import parse_spec
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

TRAINING: dict[str, Any] = {
    "data": [{"dataset": "tiny@1"}],
    "steps": STEPS,
    "batch_sequences": 12,
    "checkpoint_every": 4,
    "eval_every": 16,
    "eval_sequences": 8,
    "log_every": 1,
    "precision": "fp32",
    "eval": ["tiny@1"],
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "publish": "tiny-model",
}


def put_params(lake: Lake) -> None:
    lake.params.put("tiny", parse_spec(SPEC).model_dump(mode="json"))


def put_dataset(lake: Lake) -> None:
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    generate_here(lake, GenerateRequest(params, 96 * TINY_SPEC["seq_len"], shard_sequences=SHARD))


def datasets(lake: Lake) -> dict[str, str]:
    """Every dataset version's digest; each verified, and one version however many drivers committed it."""
    found = {}
    for name in sorted({version.name for version in lake.datasets.list()}):
        versions = lake.datasets.history(name)
        assert [version.version for version in versions] == [1]
        assert verify_dataset(lake.store, lake.datasets.manifest(f"{name}@1")).ok
        found[name] = versions[0].digest
    return found


def training(lake: Lake) -> dict[str, Any]:
    """What a training leaves: the loss of every step, the model's files, and the datasets."""
    losses = [(row["step"], row["loss"]) for row in load_metrics(lake, "run") if "loss" in row]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert [version.version for version in lake.models.history("tiny-model")] == [1]
    return {"losses": losses, "model": dict(lake.models.get("tiny-model").files), "datasets": datasets(lake)}


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


def undisturbed_datasets(folder: Path) -> dict[str, str]:
    """What GENERATE leaves, made without any cluster."""
    lake = Lake.open(str(folder / "generated"))
    put_params(lake)
    generate_here(
        lake, GenerateRequest(lake.params.get("tiny@1"), SHARDS * SHARD * SPEC["seq_len"], shard_sequences=SHARD)
    )
    return datasets(lake)


def undisturbed_training(folder: Path, parallel: Parallel = "ddp") -> dict[str, Any]:
    """What TRAIN (or FSDP) leaves, made by two processes without any cluster."""
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
