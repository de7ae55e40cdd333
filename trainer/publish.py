"""Turning a finished run into a model version that says where it came from."""

from __future__ import annotations

from typing import Any

from datalake import Lake
from trainer import hf_layout
from trainer.inputs import Inputs
from trainer.model import Llama

SCORES = ("loss", "perplexity", "bits_per_byte", "accuracy", "gate")


def publish(name: str, lake: Lake, run: str, inputs: Inputs, model: Llama, evals: dict[str, Any]) -> str:
    """Publish ``model`` under ``name`` in Hugging Face's layout; "NAME@VERSION", the same one when done again."""
    version = lake.models.publish(
        name,
        hf_layout.to_files(model, inputs.seq_len),
        run=run,
        datasets=[dataset.ref for dataset in inputs.train],
        spec_digests=[dataset.manifest.source.spec_digest for dataset in inputs.train],
        params=[dataset.params for dataset in inputs.train if dataset.params is not None],
        metrics={ref: {key: scores[key] for key in SCORES if key in scores} for ref, scores in evals.items()},
        parents=[inputs.source.ref] if inputs.source else [],
        message=f"run {run}",
    )
    return version.ref
