"""What the demo found, gathered from the lake: probe, arms, gate, lineage, verdict; and its table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from datalake import Lake, ParameterVersion, lineage, read_shard
from datalake.registry.datasets import DatasetVersion
from generator import parse_spec
from orchestration.console.foreign import as_json
from orchestration.console.output import console
from orchestration.pipeline.demo_probe import ProbeOutcome
from orchestration.reports.demo_page import ReportPage, render
from orchestration.reports.picture import sheet_of
from trainer import TrainConfig, TrainResult, load_metrics

PICTURED = 8

# Under this relative difference of held-out losses one seed says nothing: reruns of a small model with another seed
# differ by as much.
NOISE = 0.005


@dataclass(frozen=True)
class Arm:
    """One training of the demo and what came of it."""

    name: str
    run: str
    config: TrainConfig
    result: TrainResult


def write_report(
    lake: Lake,
    path: Path,
    *,
    probe: ProbeOutcome,
    params: ParameterVersion,
    datasets: Sequence[DatasetVersion],
    synthetic: Arm,
    arms: Sequence[Arm],
    seconds: float,
) -> dict[str, Any]:
    """Write the page to `path`, print the table, and return the numbers as a JSON-able dict.

    The first of `arms` is the baseline, the last the one that started from `synthetic`'s weights.
    """
    rows = [_row(arm, arms[0]) for arm in arms]
    gate = _only_eval(synthetic)["gate"]
    outcome = {
        "probe": probe.to_json(),
        "verdict": verdict(rows[0]["loss"], rows[-1]["loss"], gate["passed"]),
        "gate": gate,
        "arms": rows,
        "synthetic_model": synthetic.result.model,
        "params": {"name": params.ref, "digest": params.digest},
        "datasets": [{"name": each.ref, "digest": each.digest, "tokens": each.tokens} for each in datasets],
        "lake": lake.uri,
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("ray", "torch", "numpy", "pyarrow")},
    }
    page = ReportPage(
        outcome=outcome,
        probe_chart=probe.chart,
        spec=params.spec,
        curves={arm.name: load_metrics(lake, arm.run) for arm in arms},
        synthetic_curve=load_metrics(lake, synthetic.run),
        configs={arm.name: arm.config.model_dump(mode="json") for arm in (synthetic, *arms)},
        pictures=_pictures(lake, datasets[0]),
        lineages={arm.name: lineage(lake, _model(arm)) for arm in arms},
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(render(page), encoding="utf-8")
    os.replace(temporary, path)
    path.with_suffix(".json").write_text(as_json(outcome, indent=2) + "\n", encoding="utf-8")
    _print(outcome)
    return outcome


def verdict(baseline: float, transferred: float, gate_passed: bool) -> str:
    """One sentence on what the two held-out losses (nats per token) say; one pair of runs can say no more."""
    change = (transferred - baseline) / baseline
    amount = f"{abs(change):.2%} {'lower' if change < 0 else 'higher'} held-out loss than from scratch"
    if not gate_passed:
        return f"The synthetic task was not learned, so nothing can be concluded ({amount}, one seed)."
    if abs(change) < NOISE:
        return f"Pre-pre-training made no difference that one pair of runs could show ({amount})."
    if change < 0:
        return f"Pre-pre-training helped in this pair of runs: {amount} (one seed, no confidence interval)."
    return f"Pre-pre-training did not help at this size: {amount} (one seed, no confidence interval)."


def _row(arm: Arm, baseline: Arm) -> dict[str, Any]:
    scores, base = _only_eval(arm), _only_eval(baseline)
    return {
        "arm": arm.name,
        "model": arm.result.model,
        "run": arm.run,
        "loss": scores["loss"],
        "perplexity": scores["perplexity"],
        "bits_per_byte": scores["bits_per_byte"],
        "loss_difference": scores["loss"] - base["loss"],
        "bits_per_byte_difference": scores["bits_per_byte"] - base["bits_per_byte"],
        "tokens": arm.result.step * arm.result.facts["batch_tokens"],
        "parameters": arm.result.facts["parameters"],
        "moved": arm.result.facts["moved"],
    }


def _only_eval(arm: Arm) -> dict[str, Any]:
    (scores,) = arm.result.evals.values()
    return scores


def _model(arm: Arm) -> str:
    assert arm.result.model is not None, "the demo's configs publish"
    return arm.result.model


def _pictures(lake: Lake, dataset: DatasetVersion) -> bytes:
    manifest = lake.datasets.manifest(dataset)
    return sheet_of(parse_spec(manifest.source.spec), read_shard(lake.store, manifest.shards[0]).slice(0, PICTURED))


def _print(outcome: dict[str, Any]) -> None:
    table = Table(title="held-out text", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("arm", "model", "loss, nats", "perplexity", "bits/byte", "change"):
        table.add_column(column, justify="left" if column in ("arm", "model") else "right", no_wrap=True)
    for row in outcome["arms"]:
        table.add_row(
            row["arm"],
            row["model"],
            f"{row['loss']:.4f}",
            f"{row['perplexity']:.3f}",
            f"{row['bits_per_byte']:.4f}",
            f"{row['bits_per_byte_difference']:+.4f}",
        )
    gate = outcome["gate"]
    console.print(outcome["probe"]["sentence"])
    console.print(table)
    console.print(
        f"gate: synthetic loss {gate['loss']:.3f} against a unigram entropy of {gate['entropy']:.3f} nats: "
        + ("passed" if gate["passed"] else "NOT passed")
    )
    console.print(outcome["verdict"])
