"""Tensors cut by rows over ranks, as files: each rank writes the rows it holds, any number of ranks reads them.

A kind of tensors that no rank cuts is one file, ``<kind>.safetensors``. Otherwise rank r of w writes its rows to
``<kind>.<r>-of-<w>.safetensors``, and ``shards.json`` says for each tensor its whole shape and the rows at which it is
cut ([0, …, rows], null for one that every rank holds whole), which is all that putting it together needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from trainer import lowbit
from trainer.errors import CheckpointError

INDEX = "shards.json"
FORMAT = 1


def file_name(kind: str, rank: int, world: int) -> str:
    """The file that holds ``rank``'s rows of ``kind`` when ``world`` ranks cut it."""
    return f"{kind}.safetensors" if world == 1 else f"{kind}.{rank}-of-{world}.safetensors"


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of ``tensor``: its rows, or all of one that is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor``; for one that is cut every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_world(tensors: Mapping[str, Tensor]) -> int:
    """Over how many ranks ``tensors`` are cut; 1: not at all."""
    return max((tensor.device_mesh.size() for tensor in tensors.values() if isinstance(tensor, DTensor)), default=1)


def cuts(tensor: Tensor) -> list[int] | None:
    """The rows [0, …, rows] at which ``tensor`` is cut, as ``torch.chunk`` does; None for one that is not.

    CheckpointError unless it is cut by rows alone.
    """
    if not isinstance(tensor, DTensor):
        return None
    if tensor.placements != (Shard(0),):
        raise CheckpointError(f"a tensor is placed as {tensor.placements}: only ranks that share its rows are written")
    rows, world = tensor.shape[0], tensor.device_mesh.size()
    size = -(-rows // world)
    return [min(rank * size, rows) for rank in range(world + 1)]


def index(kinds: Mapping[str, Mapping[str, Tensor]], world: int) -> bytes:
    """``shards.json`` of tensors by kind and name."""
    tensors = {
        kind: {name: {"shape": list(tensor.shape), "rows": cuts(tensor)} for name, tensor in named.items()}
        for kind, named in kinds.items()
    }
    return json.dumps({"format": FORMAT, "world": world, "tensors": tensors}, sort_keys=True).encode()


class Saved:
    """The tensors of one kind in a checkpoint's files, whoever cut them; a file is read when a row of it is needed."""

    def __init__(self, files: Mapping[str, bytes], kind: str) -> None:
        self._files, self._kind = files, kind
        self._parts: dict[int, dict[str, Tensor]] = {}
        self._world = 1
        if INDEX in files:
            about = json.loads(files[INDEX])
            if about["format"] != FORMAT:
                raise CheckpointError(
                    f"{INDEX} format = {about['format']!r}: {FORMAT} is read here; resume with what wrote it"
                )
            self._world = about["world"]
            self._about: dict[str, Any] = about["tensors"].get(kind, {})
        elif file_name(kind, 0, 1) in files:
            self._about = {
                name: {"shape": list(tensor.shape), "rows": [0, tensor.shape[0]] if tensor.ndim else None}
                for name, tensor in self._part(0).items()
            }
        else:
            self._about = {}

    def tensors(self, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
        """Every tensor by name: cut as ``like(name)`` is where that is cut, else whole.

        Where this rank's rows are exactly what one rank wrote they come back to the bit, whatever they were stored as;
        rows put together from several ranks' 8-bit states come back as float32.
        """
        return {name: self._tensor(name, like(name)) for name in self._about}

    def _tensor(self, name: str, target: Tensor | None) -> Tensor:
        shape, edges = self._about[name]["shape"], self._about[name]["rows"]
        if edges is None:
            return self._part(0)[name]
        if not isinstance(target, DTensor) or list(target.shape) != shape:
            return self._rows(name, edges, 0, shape[0])
        wanted, rank = cuts(target), target.device_mesh.get_local_rank()
        assert wanted is not None
        return like_cut(target, self._rows(name, edges, wanted[rank], wanted[rank + 1]))

    def _rows(self, name: str, edges: list[int], start: int, stop: int) -> Tensor:
        for part, edge in enumerate(pairwise(edges)):
            if edge == (start, stop):
                return self._part(part)[name]
        pieces = [
            lowbit.as_float(self._part(part)[name])[max(start, low) - low : stop - low]
            for part, (low, high) in enumerate(pairwise(edges))
            if max(start, low) < min(stop, high)
        ]
        return torch.cat(pieces or [lowbit.as_float(self._part(0)[name])[:0]])

    def _part(self, part: int) -> dict[str, Tensor]:
        if part not in self._parts:
            self._parts[part] = lowbit.join(load(self._files[file_name(self._kind, part, self._world)]))
        return self._parts[part]


def like_cut(target: DTensor, rows: Tensor) -> DTensor:
    """This rank's ``rows`` of a tensor of ``target``'s shape that is cut as ``target`` is."""
    return DTensor.from_local(
        rows.to(target.device),
        target.device_mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )
