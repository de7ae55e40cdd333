"""A finished lattice as a model version: its weights, its config, and the network in whole numbers if it is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from datalake import Lake, ModelVersion
from trainer.errors import CheckpointError
from trainer.hf_layout import WEIGHTS, load_pieces, whole_pieces
from trainer.lattice.cell import Lattice
from trainer.lattice.evaluate import is_whole
from trainer.lattice.train_config import LatticeTrainConfig, parse_lattice_config
from trainer.lattice.whole_file import WHOLE, whole_file
from trainer.tensor_files import read_tensors, to_pieces

CONFIG = "lattice.json"


def publish_lattice(config: LatticeTrainConfig, lake: Lake, run: str, model: Lattice, evals: Mapping[str, Any]) -> str:
    """Publish ``model`` under ``config.publish``; "NAME@VERSION", the same one when done again."""
    assert config.publish is not None
    files: dict[str, Any] = {
        CONFIG: json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True).encode(),
        WEIGHTS: to_pieces({name: tensor.detach().cpu() for name, tensor in model.named_parameters()}, metadata={}),
    }
    if is_whole(config):
        files[WHOLE] = whole_file(model)
    scores = {name: value for name, value in evals.get("goal", {}).items() if isinstance(value, int | float)}
    version = lake.models.publish(config.publish, files, run=run, metrics={"goal": scores}, message=f"run {run}")
    return version.ref


def open_lattice(lake: Lake, version: ModelVersion) -> tuple[LatticeTrainConfig, Lattice]:
    """A published lattice and the config that it was trained with; CheckpointError for a model of another kind."""
    if CONFIG not in version.files:
        raise CheckpointError(f"model {version.ref}: is no lattice (it has no {CONFIG}); give one that is")
    config = parse_lattice_config(json.loads(lake.models.open_file(version, CONFIG)))
    model = Lattice(config.lattice)
    load_pieces(model, whole_pieces(read_tensors(lake.models.open_reader(version, WEIGHTS))))
    return config, model
