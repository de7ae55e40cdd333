"""The default name of a training run: made of its config, so that the same command finds the run it began."""

from __future__ import annotations

import hashlib
import json
import re

from datalake import Lake
from datalake.errors import NotFoundError
from datalake.runs.conflict import differences
from orchestration.console.progress import console
from trainer import TrainConfig
from trainer.config_model import ConfigModel
from trainer.lattice.train_config import LatticeTrainConfig

_LOOKED_AT = 50


def default_run_name(stem: str, config: ConfigModel) -> str:
    """`stem`, and the first 8 hex digits of the SHA-256 of the config's sorted JSON."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return f"{stem}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def say_if_new(lake: Lake, run: str, stem: str, config: TrainConfig | LatticeTrainConfig) -> None:
    """Say that ``run``, whose name nobody chose, begins anew, and which run of the same file would have gone on."""
    try:
        lake.runs.get(run)
    except NotFoundError:
        console.print(f"run {run} begins anew, at step 0 of {config.steps}")
        ours = re.compile(re.escape(stem) + "-[0-9a-f]{8}")
        others = [name for name in lake.runs.list() if ours.fullmatch(name)]
        for other in others[:_LOOKED_AT]:
            state = lake.runs.get(other).state
            there, here = state["config"], config.model_dump(mode="json")
            if state["kind"] == "train" and {path for path, _, _ in differences(there, here)} == {"steps"}:
                console.print(
                    f"run {other} of the same file has steps = {there['steps']}: `--run {other}` goes on with it, with "
                    f"--extend to step {config.steps}"
                )
