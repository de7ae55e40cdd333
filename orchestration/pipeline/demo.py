"""The whole job at laptop size: a probe; then parameters, sequences, text, pre-pre-training, transfer, models, report.

Every stage finds what an earlier, interrupted demo left in the lake and goes on from there, so it is also the
smallest example of how the pieces fit together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datalake import Lake
from datalake.registry.datasets import DatasetVersion
from generator import measure_acceptance, parse_spec
from orchestration.cluster.cores import local_cores
from orchestration.console.progress import console, corpus_stages, stage
from orchestration.console.training import training_display
from orchestration.corpus.add import add_corpus, stdlib_files
from orchestration.generation.job import run_generation
from orchestration.generation.request import GenerateRequest
from orchestration.pipeline.demo_probe import PROBE, run_probe
from orchestration.pipeline.demo_report import Arm, write_report
from orchestration.runs.names import default_run_name
from orchestration.runs.signals import Stop
from orchestration.training.ray_train import train_on_ray
from trainer import TrainJob, parse_config

# 4 colours on a 6×6 torus: 256 patch tokens, 11 tokens a frame, 23 frames to infer the rule from. The band leaves out
# rules that freeze (nothing to infer) and those that look like noise (nothing to learn for a model of this size).
CODE_SPEC: dict[str, Any] = {
    "family": "nca",
    "grid": [6, 6],
    "colors": 4,
    "patch": 2,
    "seq_len": 256,
    "band": {"score": "gzip-int32-v1-normalized", "low": 0.25, "high": 0.6},
}


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of a demo. The defaults fill two cores for about six minutes, set-up of a fresh machine included."""

    probe: dict[str, Any] = field(default_factory=lambda: dict(PROBE))
    spec: dict[str, Any] = field(default_factory=lambda: dict(CODE_SPEC))
    tokens: int = 1_310_720
    gate_sequences: int = 256
    shard_sequences: int = 1024
    model: dict[str, Any] = field(default_factory=lambda: {"depth": 2, "dim": 128, "heads": 4})
    batch_sequences: int = 16
    synthetic_steps: int = 300
    text_steps: int = 250
    workers: int = 2
    text_folders: tuple[str, ...] = ()  # of the standard library; all of it if none is named


DEMO = DemoSettings()

# The same stages at sizes that show only that all of them work here.
TOY = DemoSettings(
    probe={
        **PROBE,
        "seeds": [1, 2],
        "model": {**PROBE["model"], "dim": 16},
        "pre": {**PROBE["pre"], "gate_sequences": 16, "train": {**PROBE["pre"]["train"], "steps": 2}},
        "train": {**PROBE["train"], "steps": 2, "eval_sequences": 16, "eval_every": 1},
    },
    tokens=32_768,
    gate_sequences=16,
    shard_sequences=16,
    model={"depth": 1, "dim": 16, "heads": 2},
    batch_sequences=4,
    workers=1,  # three trainings start, and a process takes seconds to
    synthetic_steps=16,
    text_steps=16,
    text_folders=("json", "email", "http"),
)


def run_demo(lake: Lake, settings: DemoSettings, report: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Run or finish the demo and write the report; returns the digests, models and numbers. Ray must be running.

    Raises JobStopped once ``stop`` has ended it.
    """
    stop = stop or Stop()
    started = time.monotonic()
    console.print(f"lake {lake.store.uri} · {local_cores()} cores · {settings.workers} training workers")

    probe = run_probe(lake, settings.probe, stop)
    params = _register(lake, settings.spec)
    synthetic = _generate(
        lake, settings, params, "code", seed=0, sequences=settings.tokens // params.spec["seq_len"], stop=stop
    )
    gate = _generate(lake, settings, params, "code-heldout", seed=1, sequences=settings.gate_sequences, stop=stop)
    train_text, heldout_text = _corpus(lake, settings)

    nca = _train(lake, settings, "nca", _config(settings, synthetic, gate, settings.synthetic_steps), stop)
    source = nca.result.model
    text = _config(settings, train_text, heldout_text, settings.text_steps)
    scratch = _train(lake, settings, "scratch", text, stop)
    transferred = _train(lake, settings, "transferred", text | {"transfer": {"source": source, "what": "attn"}}, stop)

    outcome = write_report(
        lake,
        report,
        probe=probe,
        params=params,
        datasets=[synthetic, gate, train_text, heldout_text],
        synthetic=nca,
        arms=[scratch, transferred],
        seconds=time.monotonic() - started,
    )
    console.print(f"report: {report.resolve()}")
    return outcome


def _register(lake: Lake, fields: dict[str, Any]) -> Any:
    spec = parse_spec(fields)
    acceptance = measure_acceptance(spec)
    params = lake.params.put("code", spec.model_dump(mode="json"), message="the demo's rules")
    console.print(
        f"parameters {params.name}@{params.version}  {params.digest}  ({acceptance.rate:.0%} of rules accepted)"
    )
    return params


def _generate(
    lake: Lake,
    settings: DemoSettings,
    params: Any,
    dataset: str,
    *,
    seed: int,
    sequences: int,
    stop: Stop | None = None,
) -> DatasetVersion:
    tokens = sequences * params.spec["seq_len"]
    request = GenerateRequest(
        params, tokens, dataset=dataset, seed=seed, shard_sequences=settings.shard_sequences, message="demo"
    )
    with stage(f"generate {dataset}", tokens) as advance:
        result = run_generation(lake, request, advance, stop=stop)
    console.print(
        f"dataset {result.dataset.name}@{result.dataset.version}  {result.manifest.digest}  "
        f"{result.manifest.tokens:,} tokens in {len(result.manifest.shards)} shards ({result.shards_reused} reused)"
    )
    return result.dataset


def _corpus(lake: Lake, settings: DemoSettings) -> tuple[DatasetVersion, DatasetVersion]:
    folders = settings.text_folders
    files = [path for path in stdlib_files() if not folders or path.parent.name in folders]
    with corpus_stages("stdlib") as progress:
        result = add_corpus(lake, "stdlib", files, seq_len=settings.spec["seq_len"], message="demo", progress=progress)
    for dataset in result.both():
        console.print(f"dataset {dataset.name}@{dataset.version}  {dataset.digest}  {dataset.tokens:,} tokens")
    return result.both()


def _config(settings: DemoSettings, data: DatasetVersion, heldout: DatasetVersion, steps: int) -> dict[str, Any]:
    return {
        "model": settings.model,
        "data": [{"dataset": f"{data.name}@{data.version}"}],
        "eval": [f"{heldout.name}@{heldout.version}"],
        "eval_sequences": min(settings.gate_sequences, heldout.sequences),
        "steps": steps,
        "batch_sequences": settings.batch_sequences,
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": steps // 20, "final_fraction": 0.1},
        "eval_every": max(1, steps // 8),
        "checkpoint_every": max(1, steps // 8),
        "log_every": max(1, steps // 100),
    }


def _train(lake: Lake, settings: DemoSettings, name: str, fields: dict[str, Any], stop: Stop) -> Arm:
    config = parse_config(fields | {"publish": f"demo-{name}"})
    # Another size of demo in the same lake is another run; the same demo finds its own run and resumes it.
    run = default_run_name(f"demo-{name}", config)
    with training_display(f"train {name}", config.steps) as on_event:
        result = train_on_ray(TrainJob(config, lake, run), workers=settings.workers, on_event=on_event, stop=stop)
    console.print(f"model {result.model}  run {run}")
    return Arm(name, run, config, result)
