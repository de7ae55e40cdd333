"""Turning a finished run into a model version that says where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datalake import Lake
from trainer.inputs import Inputs

SCORES = ("loss", "perplexity", "bits_per_byte", "accuracy", "gate")


def publish(name: str, lake: Lake, run: str, inputs: Inputs, files: Mapping[str, bytes], evals: dict[str, Any]) -> str:
    """Publish ``hf_layout.to_files`` of the model under ``name``; "NAME@VERSION", the same one when done again."""
    version = lake.models.publish(
        name,
        files,
        run=run,
        datasets=[dataset.ref for dataset in inputs.train],
        spec_digests=[dataset.manifest.source.spec_digest for dataset in inputs.train],
        params=[dataset.params for dataset in inputs.train if dataset.params is not None],
        metrics={ref: {key: scores[key] for key in SCORES if key in scores} for ref, scores in evals.items()},
        parents=[inputs.source.ref] if inputs.source else [],
        message=f"run {run}",
    )
    return version.ref
