"""AdamW whose two moments take a byte each, through torchao (the extra ``lowbit``), and those bytes as plain tensors.

Each 256 values of a moment share a scale; what is stored is the nearest of 256 levels (Dettmers et al. 2021, arXiv
2110.02861). torchao leaves tensors of fewer than 4,096 values, or of a number that 256 does not divide, in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.errors import CheckpointError, ConfigError

# The plain tensors inside torchao's ``OptimState8bit``: levels' numbers, scales, and the levels themselves.
INNER = ("codes", "scale", "qmap")


def adamw8bit(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
    """torchao's AdamW over ``groups``, whose rates and decays may change at each step like those of torch's own.

    ConfigError if torchao is not installed.
    """
    try:
        from torchao.optim import AdamW8bit  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "optimizer.name = 'adamw8bit': needs the package torchao, which is not installed; "
            "pip install 'morphogen[lowbit]', or use 'adamw'"
        ) from error

    class Stepper(AdamW8bit):
        """torchao compiles its update for each decay it meets and wants rates as tensors: so both are given its way."""

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            rates = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
            on_cpu = True
            for group, (lr, decay) in zip(self.param_groups, rates, strict=True):
                moving = [parameter for parameter in group["params"] if parameter.grad is not None]
                for parameter in moving:
                    parameter.mul_(1.0 - lr * decay)
                    on_cpu &= parameter.device.type == "cpu"
                group["lr"], group["weight_decay"] = torch.tensor(lr), 0.0
            try:
                # On a CPU compiling takes 18 s and a C++ compiler, and saves little: the same operations run eagerly.
                with torch.compiler.set_stance("force_eager" if on_cpu else "default"):
                    return super().step(closure)
            finally:
                for group, (lr, decay) in zip(self.param_groups, rates, strict=True):
                    group["lr"], group["weight_decay"] = lr, decay

    return Stepper(groups, lr=lr, betas=betas, eps=eps, weight_decay=0.0)


def is_lowbit(tensor: Tensor) -> bool:
    """Whether ``tensor`` holds its values in 8 bits."""
    return not isinstance(tensor, DTensor) and all(hasattr(tensor, part) for part in INNER)


def as_float(tensor: Tensor) -> Tensor:
    """``tensor``, with float32 values if it held them in 8 bits."""
    return tensor.dequantize() if is_lowbit(tensor) else tensor


def split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """``tensor`` as plain ones: itself under ``name``, or the three that 8-bit values are made of under ``name.codes``,
    ``name.scale`` and ``name.qmap``."""
    return {f"{name}.{part}": getattr(tensor, part) for part in INNER} if is_lowbit(tensor) else {name: tensor}


def join_each(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The inverse of ``split`` over (name, tensor) pairs: each 8-bit tensor once its three parts have come by."""
    waiting: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors:
        name, _, part = full_name.rpartition(".")
        if part not in INNER:
            yield full_name, tensor
            continue
        parts = waiting.setdefault(name, {})
        parts[part] = tensor
        if len(parts) == len(INNER):
            from torchao.optim.subclass_8bit import OptimState8bit  # type: ignore[import-untyped]

            codes, scale, qmap = (waiting[name][inner] for inner in INNER)
            del waiting[name]
            yield name, OptimState8bit(codes, scale, qmap, bool(qmap.min() < 0), torch.float32)
    for name, parts in waiting.items():
        raise CheckpointError(f"{name}: has {', '.join(sorted(parts))} of {', '.join(INNER)}; restore the checkpoint")


@torch.no_grad()
def as_state(optimizer: Any, parameter: Tensor, key: str, value: Tensor) -> Tensor:
    """``value`` as ``optimizer`` would hold it: what another number of ranks wrote is rounded anew to 8 bits.

    ``value`` is a moment of ``parameter``, both cut alike.
    """
    if value.ndim == 0 or not hasattr(optimizer, "_new_buffer"):
        return value
    held = optimizer._new_buffer(parameter, key == "exp_avg")
    inside, given = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in (held, value))
    if is_lowbit(inside) == is_lowbit(given):
        return value
    inside.copy_(as_float(given))
    return held
