"""A run's resumable state as files: safetensors for tensors, JSON for the rest, nothing that executes on load.

Files: ``model.safetensors`` (weights), ``optimizer.safetensors`` (``<parameter>.<key>``, such as
``lm_head.weight.exp_avg``), ``average.safetensors`` (averaged weights, once there are any), ``state.json`` (the step
and what the next attempt must know). A file that would be too large is several (``trainer.tensor_files``). Learning
rate, data order and random numbers are functions of (config, step), so the step is all that is kept of them. Equal
states give equal bytes. Where ranks share a model's rows, each writes its own (``trainer.shards``).

Making them has two parts, so that a run waits for the first alone: ``snapshot`` copies what would change, ``encode``
makes files of the copy, which are read from it and no copy of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from datalake.errors import CorruptObjectError
from datalake.store.content import Content
from trainer import lowbit, shards
from trainer.average import Average
from trainer.errors import CheckpointError, DivergedError
from trainer.hf_layout import hf_tensors, load_pieces
from trainer.optim import Optimizer
from trainer.tensor_files import FileLimit, to_files

MODEL, OPTIMIZER, AVERAGE, STATE = "model", "optimizer", "average", "state.json"
FORMAT = 1

Snapshot = dict[str, bytes | dict[str, Tensor]]


def snapshot(
    model: nn.Module, optimizer: Optimizer, average: Average, state: Mapping[str, Any], rank: int = 0
) -> Snapshot:
    """What ``rank`` writes of a checkpoint, by file name, copied to host memory; empty if rank 0 writes for all.

    DivergedError, and so no checkpoint, if a weight that this rank holds is not finite.
    """
    kinds = {MODEL: hf_tensors(model), OPTIMIZER: optimizer_tensors(optimizer), AVERAGE: average.tensors}
    world = shards.cut_world(kinds[MODEL])
    if rank >= world:
        return {}
    for name, tensor in kinds[MODEL].items():
        if not torch.isfinite(shards.local(tensor)).all():
            raise DivergedError(
                f"step {state['step']}: weight {name} is not finite; the checkpoint before this one is kept; "
                "lower optimizer.lr or raise schedule.warmup_steps"
            )
    files: Snapshot = {
        shards.file_name(kind, rank, world): {
            part: inner.detach().to("cpu", copy=True).contiguous()
            for name, tensor in named.items()
            for part, inner in lowbit.split(name, shards.local(tensor)).items()
        }
        for kind, named in kinds.items()
        if named
    }
    if rank == 0:
        files[STATE] = json.dumps({"format": FORMAT, **state}, sort_keys=True, allow_nan=False).encode()
        if world > 1:
            files[shards.INDEX] = shards.index(kinds, world)
    return files


def encode(files: Snapshot, limit: int) -> dict[str, Content]:
    """The files of a snapshot, none of more than ``limit`` bytes; they are read from it when they are used."""
    found: dict[str, Content] = {}
    for name, data in files.items():
        if isinstance(data, bytes):
            found[name] = data
        else:
            found |= to_files(name.removesuffix(".safetensors"), data, limit)
    return found


def upload(files: Snapshot, limit: FileLimit, put: Callable[[Mapping[str, Content]], dict[str, str]]) -> dict[str, str]:
    """``put`` the files of a snapshot, one kind after the other, in smaller files where the store asks for it.

    Returns names to SHA-256, as ``put`` does.
    """
    digests: dict[str, str] = {}
    for name, data in files.items():
        digests |= limit.write(partial(encode, {name: data}), put)
    return digests


def unpack(files: Mapping[str, bytes], model: nn.Module, optimizer: Optimizer, average: Average) -> dict[str, Any]:
    """Load a checkpoint's files into ``model``, ``optimizer`` and ``average``, in place; returns the state.

    Each rank reads the files that hold its rows, however many ranks wrote them.
    """
    state = read_state(files)
    parameters = dict(model.named_parameters())

    def owner(name: str) -> Tensor | None:
        return parameters.get(name.rpartition(".")[0])

    try:
        load_pieces(model, shards.Saved(files, MODEL).pieces(parameters.get))
        load_optimizer_tensors(optimizer, shards.Saved(files, OPTIMIZER).tensors(owner))
        average.load(dict(shards.Saved(files, AVERAGE).tensors(parameters.get)))
    except (KeyError, CorruptObjectError) as error:
        raise CheckpointError(f"checkpoint at step {state['step']} cannot be read: {error}") from error
    return state


def read_state(files: Mapping[str, bytes]) -> dict[str, Any]:
    """``state.json``; CheckpointError if it is of another format."""
    state = json.loads(files[STATE])
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint format = {state.get('format')!r}: {FORMAT} is read here; resume with what wrote it"
        )
    return state


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Every state tensor of every parameter under ``<parameter>.<key>``, as the optimiser holds it."""
    return {f"{name}.{key}": value for name, _, state in optimizer.states() for key, value in state.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Put ``optimizer_tensors`` back, each tensor where its parameter is; CheckpointError for one that has none.

    The per-parameter step count stays on the CPU or goes to the device as a fresh optimiser would have placed it.
    """
    parameters = {name: parameter for name, parameter, _ in optimizer.states()}
    for full_name, value in tensors:
        name, _, key = full_name.rpartition(".")
        if name not in parameters:
            raise CheckpointError(f"optimizer state {full_name}: the model has no parameter {name}; check the config")
        parameter = parameters[name]
        if value.ndim and value.shape != parameter.shape:
            raise CheckpointError(
                f"optimizer state {full_name} is {list(value.shape)}, the parameter is {list(parameter.shape)}"
            )
        optimizer.load_state(name, key, value)
