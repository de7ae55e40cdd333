"""Tensors cut by rows over ranks, as files: each rank writes the rows it holds, any number of ranks reads them.

A kind of tensors that no rank cuts is one file, ``<kind>.safetensors``. Otherwise rank r of w writes its rows to
``<kind>.<r>-of-<w>.safetensors``, and ``shards.json`` says for each tensor its whole shape and the rows at which it is
cut ([0, …, rows], null for one that every rank holds whole), which is all that putting it together needs. What is
larger than one object may be is several files in place of one (``trainer.tensor_files``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from datalake.runs.checkpoints import CheckpointFiles
from datalake.store.content import ContentReader
from trainer import lowbit
from trainer.errors import CheckpointError
from trainer.tensor_files import files_of, read_whole

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


class Piece(NamedTuple):
    """``rows`` of tensor ``name`` that belong at row ``at`` of the ``total`` that this rank holds (None: all of it)."""

    name: str
    at: int
    total: int | None
    rows: Tensor


class Saved:
    """The tensors of one kind in a checkpoint's files, whoever cut them, read file by file and one in memory at a time.

    ``files`` may be bytes by name, or what opens each for reading (``CheckpointFiles``).
    """

    def __init__(self, files: Mapping[str, bytes], kind: str) -> None:
        self._files, self._kind = files, kind
        self._world = 1
        self._about: dict[str, Any] | None = None  # None: nothing is cut, each tensor says its own shape
        if INDEX in files:
            about = json.loads(files[INDEX])
            if about["format"] != FORMAT:
                raise CheckpointError(
                    f"{INDEX} format = {about['format']!r}: {FORMAT} is read here; resume with what wrote it"
                )
            self._world = about["world"]
            self._about = about["tensors"].get(kind, {})

    def pieces(self, like: Callable[[str], Tensor | None]) -> Iterator[Piece]:
        """All that this rank is to hold: its rows where ``like(name)`` is cut, else whole tensors.

        Where this rank's rows are exactly what one rank wrote they come back to the bit, whatever they were stored as;
        rows put together from several ranks' 8-bit states come back as float32.
        """
        for part in range(self._world):
            if self._about is None or any(
                self._overlaps(part, about, like(name)) for name, about in self._about.items()
            ):
                for name, tensor in lowbit.join_each(read_whole(self._readers(part))):
                    yield from self._of_part(part, name, tensor, like(name))

    def tensors(self, like: Callable[[str], Tensor | None]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of everything in ``pieces``, each once its rows are together and cut as ``like(name)`` is."""
        waiting: dict[str, tuple[Tensor, int]] = {}
        for name, at, total, rows in self.pieces(like):
            target = like(name)
            done = rows.shape[0] if rows.ndim else 0
            if total is not None and done < total:
                whole, before = waiting.pop(name, (None, 0))
                if whole is None:
                    whole = torch.empty((total, *rows.shape[1:]), dtype=rows.dtype)
                whole[at : at + done] = rows
                if before + done < total:
                    waiting[name] = (whole, before + done)
                    continue
                rows = whole
            cut = total is not None and isinstance(target, DTensor) and target.to_local().shape[0] == total
            yield name, like_cut(target, rows) if cut else rows  # type: ignore[arg-type]
        if waiting:
            raise CheckpointError(f"{min(waiting)}: some of its rows are in no file; resume an older checkpoint")

    def _readers(self, part: int) -> Iterator[ContentReader]:
        stem = file_name(self._kind, part, self._world).removesuffix(".safetensors")
        for name in files_of(stem, self._files.keys()):
            if isinstance(self._files, CheckpointFiles):
                yield self._files.open(name)
            else:
                yield ContentReader.of_bytes(self._files[name], name)

    def _overlaps(self, part: int, about: Mapping[str, Any], target: Tensor | None) -> bool:
        """Whether ``part`` has something of a tensor that this rank needs."""
        edges = about["rows"]
        if edges is None:
            return part == 0
        start, stop = wanted_rows(about["shape"], target)
        return part == 0 if start == stop else max(start, edges[part]) < min(stop, edges[part + 1])

    def _of_part(self, part: int, name: str, tensor: Tensor, target: Tensor | None) -> Iterator[Piece]:
        about: dict[str, Any]
        if self._about is None:
            about = {"shape": list(tensor.shape), "rows": [0, tensor.shape[0]] if tensor.ndim else None}
        else:
            about = self._about[name]
        if not self._overlaps(part, about, target):
            return
        if about["rows"] is None:
            yield Piece(name, 0, None, tensor)
            return
        low, high = about["rows"][part : part + 2]
        start, stop = wanted_rows(about["shape"], target)
        if (low, high) == (start, stop):
            yield Piece(name, 0, stop - start, tensor)
        else:
            rows = lowbit.as_float(tensor)[max(start, low) - low : max(0, stop - low)]
            yield Piece(name, max(start, low) - start if start < stop else 0, stop - start, rows)


def wanted_rows(shape: Sequence[int], target: Tensor | None) -> tuple[int, int]:
    """The rows of a tensor of ``shape`` that this rank holds: its share where ``target`` is cut, else all."""
    if not isinstance(target, DTensor) or list(target.shape) != list(shape):
        return 0, shape[0]
    edges, rank = cuts(target), target.device_mesh.get_local_rank()
    assert edges is not None
    return edges[rank], edges[rank + 1]


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
