"""The network in whole numbers as a file (safetensors): what ``generator.lattice`` computes with."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from datalake.store.content import Pieces
from trainer.lattice.cell import Effective, Lattice
from trainer.lattice.quantise import ACTIVATION_BITS, MATRICES, quantised, shifts_of
from trainer.tensor_files import to_pieces

WHOLE = "whole.safetensors"
FORMAT = "1"


@torch.no_grad()
def whole_tensors(model: Lattice) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The weights in their units (int8 matrices and gains, int32 sums), by name, and each tensor's shift."""
    effective = model.effective()
    weights, shifts = quantised(Effective(*(t.detach().cpu() for t in effective.tensors()))), shifts_of(effective)
    found: dict[str, Tensor] = {}
    for name, shift in vars(shifts).items():
        found[name] = getattr(weights, name).mul(2.0**shift).to(torch.int8)
    for name, bias in MATRICES.items():
        found[bias] = getattr(weights, bias).mul(2.0 ** (ACTIVATION_BITS + getattr(shifts, name))).to(torch.int32)
    found["shift"] = weights.shift.mul(2.0 ** (ACTIVATION_BITS + shifts.w_gate + shifts.gain)).to(torch.int32)
    return {name: tensor.squeeze().reshape(_flat(tensor)) for name, tensor in found.items()}, vars(shifts)


def _flat(tensor: Tensor) -> list[int]:
    """The sets of weights first, and no axis of length 1 after them."""
    return [tensor.shape[0], *(side for side in tensor.shape[1:] if side != 1)]


def whole_file(model: Lattice) -> Pieces:
    """The file; equal networks give equal bytes. It says how the network is built, and the shifts."""
    tensors, shifts = whole_tensors(model)
    config = model.config
    about = {
        "format": FORMAT,
        "channels": config.channels,
        "visible": config.visible,
        "goal": config.goal,
        "hidden": config.hidden,
        "feed": config.feed,
        "types": config.types,
        "shifts": shifts,
    }
    return to_pieces(tensors, metadata={"lattice": json.dumps(about, sort_keys=True)})
