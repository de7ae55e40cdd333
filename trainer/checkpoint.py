"""A run's resumable state as files: safetensors for tensors, JSON for the rest, nothing that executes on load.

Files: ``model.safetensors`` (weights), ``optimizer.safetensors`` (``<parameter>.<key>``, such as
``lm_head.weight.exp_avg``), ``average.safetensors`` (averaged weights, once there are any), ``state.json`` (the step
and what the next attempt must know). Learning rate, data order and random numbers are functions of (config, step), so
the step is all that is kept of them. Equal states give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trainer.average import Average
from trainer.errors import CheckpointError, DivergedError
from trainer.hf_layout import from_hf_state, to_hf_state
from trainer.model import Llama
from trainer.optim import Optimizer

MODEL, OPTIMIZER, AVERAGE, STATE = "model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"
FORMAT = 1


def pack(model: Llama, optimizer: Optimizer, average: Average, state: Mapping[str, Any]) -> dict[str, bytes]:
    """The checkpoint's files; DivergedError, and so no checkpoint, if a weight is not finite."""
    weights = to_hf_state(model)
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise DivergedError(
                f"step {state['step']}: weight {name} is not finite; the checkpoint before this one is kept; "
                "lower optimizer.lr or raise schedule.warmup_steps"
            )
    averaged = {name: tensor.to("cpu").contiguous() for name, tensor in average.tensors.items()}
    return {
        MODEL: save(weights),
        OPTIMIZER: save(optimizer_tensors(optimizer)),
        **({AVERAGE: save(averaged)} if averaged else {}),
        STATE: json.dumps({"format": FORMAT, **state}, sort_keys=True, allow_nan=False).encode(),
    }


def unpack(files: Mapping[str, bytes], model: Llama, optimizer: Optimizer, average: Average) -> dict[str, Any]:
    """Load ``pack``'s files into ``model``, ``optimizer`` and ``average``, in place; returns the state."""
    state = read_state(files)
    try:
        weights, moments = load(files[MODEL]), load(files[OPTIMIZER])
        averaged = load(files[AVERAGE]) if AVERAGE in files else {}
    except (KeyError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint at step {state['step']} cannot be read: {error}") from error
    from_hf_state(model, weights)
    load_optimizer_tensors(optimizer, moments)
    average.load(averaged)
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
    """Every state tensor of every parameter under ``<parameter>.<key>``, on CPU, dtypes kept."""
    return {
        f"{name}.{key}": value.detach().to("cpu").contiguous()
        for name, _, state in optimizer.states()
        for key, value in state.items()
    }


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put ``optimizer_tensors`` back, each tensor where its parameter is; CheckpointError for one that has none.

    The per-parameter step count stays on the CPU or goes to the device as a fresh optimiser would have placed it.
    """
    named = {name: (parameter, state) for name, parameter, state in optimizer.states()}
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        if name not in named:
            raise CheckpointError(f"optimizer state {full_name}: the model has no parameter {name}; check the config")
        parameter, state = named[name]
        if value.ndim and value.shape != parameter.shape:
            raise CheckpointError(
                f"optimizer state {full_name} is {list(value.shape)}, the parameter is {list(parameter.shape)}"
            )
        state[key] = value.to(parameter.device)
