"""The default name of a training run: made of its config, so that the same command finds the run it began."""

from __future__ import annotations

import hashlib
import json

from trainer import TrainConfig


def default_run_name(stem: str, config: TrainConfig) -> str:
    """`stem`, and the first 8 hex digits of the SHA-256 of the config's sorted JSON."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return f"{stem}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
