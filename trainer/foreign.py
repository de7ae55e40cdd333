"""Beginning with a model that exists: a version in the lake, or a folder that transformers opens.

A folder's weights become a model version of the lake first. From then on the run needs the folder no more: it resumes
on any machine, its workers read what the lake has, and its lineage names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from datalake import Lake, ModelVersion
from generator.regular_files import open_regular, read_bounded
from trainer import hf_layout
from trainer.errors import CheckpointError, ConfigError
from trainer.model import parameter_shapes
from trainer.model_config import ModelShape
from trainer.tensor_files import FileLimit, to_pieces

MAX_JSON_BYTES = 64 << 20
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")


def with_init(table: Mapping[str, Any], lake: Lake) -> dict[str, Any]:
    """A training config's ``table`` (parsed TOML) with what ``init`` in it means: the version, and [model] if left out.

    ``init`` is "NAME", "NAME@V", "NAME@ALIAS", or the path of a folder, which is taken into the lake. Raises
    ConfigError, CheckpointError for a model of another kind, and what the lake raises.
    """
    found = dict(table)
    init, model = found.get("init"), found.get("model", {})
    if not isinstance(init, str) or not isinstance(model, Mapping):
        return found  # nothing to do, or a mistake that is said with the config's others
    version = import_folder(lake, Path(init).expanduser()) if is_folder(init) else lake.models.usable(init)
    shape = shape_of(lake, version)
    found["init"] = version.ref
    found["model"] = {"vocab_size": shape.vocab_size, **model} if "depth" in model else {**_dials(shape), **model}
    return found


def is_folder(init: str) -> bool:
    """Whether ``init`` is a path: it cannot be a model's name, or it is none with a version and a folder is there."""
    return "/" in init or init.startswith((".", "~")) or ("@" not in init and Path(init).is_dir())


def shape_of(lake: Lake, version: ModelVersion) -> ModelShape:
    """The shape of a model version."""
    return hf_layout.from_hf_config(hf_layout.read_config(lake.models.open_file(version, hf_layout.CONFIG)))


def _dials(shape: ModelShape) -> dict[str, Any]:
    return {"depth": shape.layers, **shape.model_dump()}


def import_folder(lake: Lake, folder: Path) -> ModelVersion:
    """The folder's model as a version ``init-FOLDER@V`` of the lake; the same one when nothing in it has changed.

    Its weights are read where they lie, one tensor at a time. CheckpointError for what is no plain Llama or Qwen3 in
    safetensors files, ConfigError for a folder that cannot be read.
    """
    try:
        names = {path.name for path in folder.iterdir()}
        if hf_layout.CONFIG not in names:
            raise CheckpointError(f"there is no {hf_layout.CONFIG}; give a folder that transformers opens")
        config = hf_layout.read_config(_small(folder / hf_layout.CONFIG))
        shape = hf_layout.from_hf_config(config)
        if not names & {hf_layout.WEIGHTS, hf_layout.INDEX} and (pickled := sorted(names.intersection(PICKLES))):
            raise CheckpointError(
                f"{pickled[0]} is a pickle, which can run code when it is read; save the model as safetensors"
            )
        tensors = _fitting(open_weights(folder, names), shape)
    except OSError as error:
        raise ConfigError(
            f"init = {str(folder)!r}: cannot be read ({error.strerror or error}); give a folder with config.json and "
            "model.safetensors, or a model NAME@V of the lake"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"init = {str(folder)!r}: {error}") from error
    return _publish(lake, folder, config, shape, tensors)


def _small(path: Path) -> bytes:
    """The bytes of a file of JSON. Raises OSError, and CheckpointError for one that is far too large."""
    data = read_bounded(path, MAX_JSON_BYTES)
    if data is None:
        raise CheckpointError(f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MiB, which none is; fetch it again")
    return data


def open_weights(folder: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Every tensor of a folder with files ``names``, by name, each a view of its file's pages.

    Raises CheckpointError for files that are no safetensors, OSError for what cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for name in hf_layout.weight_names(names, lambda: _small(folder / hf_layout.INDEX)):
        open_regular(folder / name).close()  # the library would wait for a pipe without end
        try:
            with safe_open(folder / name, framework="pt") as opened:
                tensors |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (no mapping)
        except SafetensorError as error:
            raise CheckpointError(f"{name} is no safetensors file ({error}); fetch it again") from error
    return tensors


def _fitting(tensors: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """The tensors that a model of ``shape`` has, in its order; CheckpointError if one is missing, odd or too many."""
    fitting = {}
    for name, wanted in parameter_shapes(shape).items():
        if name not in tensors:
            raise CheckpointError(f"{name}, of which {hf_layout.CONFIG} tells, is missing from the weights")
        tensor = tensors[name]
        if tuple(tensor.shape) != wanted or not tensor.dtype.is_floating_point:
            raise CheckpointError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, and by {hf_layout.CONFIG} floats {list(wanted)}; "
                "the two files do not belong together"
            )
        fitting[name] = tensor
    known = fitting.keys() | ({"lm_head.weight"} if shape.tied else set())
    if extra := [name for name in tensors if name not in known and name.endswith((".weight", ".bias"))]:
        raise CheckpointError(f"{min(extra)} is in the weights and no part of a plain Llama or Qwen3")
    return fitting


def _publish(
    lake: Lake, folder: Path, config: Mapping[str, Any], shape: ModelShape, tensors: Mapping[str, Tensor]
) -> ModelVersion:
    name = "init-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:100] or "model")
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    length = config.get("max_position_embeddings") or 2048
    small = {hf_layout.CONFIG: hf_layout.config_file(shape, length, end if isinstance(end, int) else None)}

    def files(limit: int) -> dict[str, Any]:
        placed, index = hf_layout.layout(tensors, limit)
        weights = {
            file: to_pieces({key: tensors[key] for key in members}, metadata={"format": "pt"})
            for file, members in placed.items()
        }
        return {**weights, **small, **({hf_layout.INDEX: index} if index is not None else {})}

    return FileLimit().write(
        files, lambda made: lake.models.publish(name, made, run=name, message=f"imported from {folder}")
    )
