"""Tensors as safetensors files of a bounded size, written and read one tensor at a time.

An object store takes 5 GiB in one request and some take less, so what is larger becomes several files, named as Hugging
Face names them: ``model-00001-of-00003.safetensors``. A safetensors file is the length of its header (8 bytes, little
endian), a JSON header with each tensor's type, shape and place, and the tensors' bytes one after another. The library
makes and takes such a file whole, as bytes or on a disk; a model of gigabytes on its way to or from an object store
would be in memory twice. So header and bytes are joined and taken apart here; ``tests/trainer/test_tensor_files.py``
holds that the files equal the library's, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from datalake.errors import ObjectTooLargeError
from datalake.events import log_event
from datalake.store.content import Content, ContentReader, Pieces
from trainer.errors import CheckpointError, ConfigError

FILE_BYTES = 4 << 30
SMALLEST_FILE = 16 << 10
VARIABLE = "MORPHOGEN_FILE_BYTES"
_ROWS = "rows"  # the header's metadata: {key: [tensor, first row, all rows]} of tensors that are cut
_HEADER_LIMIT = 100 << 20  # the format's own
_MOST_SIDES, _LONGEST_SIDE = 8, 1 << 40  # of a tensor's shape, in files of others
_OVERHEAD = 160  # at most what a tensor's entry in the header takes beside its name

# The format's names, in the order in which the library writes.
_TYPES: dict[str, torch.dtype] = {
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64,
    "F32": torch.float32, "U32": torch.uint32, "I32": torch.int32,
    "BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16, "I16": torch.int16,
    "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_NAMES)}

T = TypeVar("T")


class Header(NamedTuple):
    """What a file holds: ``tensors`` in the order of their bytes, each (key, dtype, shape), and its ``metadata``."""

    tensors: list[tuple[str, torch.dtype, tuple[int, ...]]]
    metadata: dict[str, str]
    size: int  # bytes before the first tensor's


class Part(NamedTuple):
    """Rows ``start`` … ``stop`` of tensor ``name``, or all of it (None)."""

    name: str
    rows: tuple[int, int] | None = None


class FileLimit:
    """The most bytes that a file of tensors gets; lowered when the store says that it takes less."""

    def __init__(self, limit: int | None = None) -> None:
        self.bytes = limit if limit is not None else _limit_setting()

    def write(self, files: Callable[[int], Mapping[str, Content]], upload: Callable[[Mapping[str, Content]], T]) -> T:
        """``upload(files(limit))``, again with smaller files for as long as the store finds one too large.

        Raises ObjectTooLargeError once smaller files cannot be made.
        """
        while True:
            made = files(self.bytes)
            try:
                return upload(made)
            except ObjectTooLargeError as error:
                self.lower(max(map(len, made.values())), error)

    def lower(self, refused: int, error: ObjectTooLargeError) -> None:
        """Take note that a file of ``refused`` bytes was too large; ``error`` if files cannot be made much smaller."""
        lower = min(self.bytes, refused) // 2
        if lower < SMALLEST_FILE:
            raise error
        log_event("smaller_files", logger="morphogen.trainer", limit=lower, reason=str(error))
        self.bytes = lower


def _limit_setting() -> int:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return FILE_BYTES
    if not text.isdecimal() or not SMALLEST_FILE <= int(text) <= 5 << 30:
        raise ConfigError(
            f"{VARIABLE} = {text!r}: must be a number of bytes from {SMALLEST_FILE} to {5 << 30} (5 GiB); "
            f"{FILE_BYTES} is the default"
        )
    return int(text)


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def arrange(tensors: Mapping[str, Tensor], limit: int, *, cut: bool) -> list[list[Part]]:
    """Which tensors go into which file, in the given order, so that no file has more than ``limit`` bytes.

    Only shapes and types are looked at. A tensor that is larger alone is ``cut`` by rows, or has a file to itself.
    """
    files: list[list[Part]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        overhead = len(json.dumps(name)) + _OVERHEAD
        size = tensor_bytes(tensor)
        parts, sizes = [Part(name)], [size]
        if cut and size + overhead > limit and tensor.ndim and tensor.shape[0] > 1:
            row = size // tensor.shape[0]
            rows = max(1, (limit - 2 * overhead) // row)
            edges = [*range(0, tensor.shape[0], rows), tensor.shape[0]]
            parts = [Part(name, (low, high)) for low, high in pairwise(edges)]
            sizes = [(high - low) * row for low, high in pairwise(edges)]
            overhead *= 2
        for part, part_size in zip(parts, sizes, strict=True):
            if files[-1] and used + part_size + overhead > limit:
                files.append([])
                used = 0
            files[-1].append(part)
            used += part_size + overhead
    return files


def names_of(stem: str, count: int) -> list[str]:
    """Names of ``count`` files: ``stem.safetensors`` for one, else Hugging Face's numbered ones."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def files_of(stem: str, names: Collection[str]) -> list[str]:
    """The files of ``stem`` among ``names``, in order, [] if there are none; CheckpointError if some are missing."""
    if f"{stem}.safetensors" in names:
        return [f"{stem}.safetensors"]
    numbered = re.compile(re.escape(stem) + r"-(\d{5})-of-(\d{5})\.safetensors")
    counts = {int(found[2]) for name in names if (found := numbered.fullmatch(name))}
    if not counts:
        return []
    wanted = names_of(stem, max(counts))
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(f"{missing[0]} is missing: {stem} is in {len(wanted)} files; restore it from a copy")
    return wanted


def to_files(stem: str, tensors: Mapping[str, Tensor], limit: int) -> dict[str, Pieces]:
    """``tensors`` as files by name, those too large for one cut by rows; nothing is copied before it is read."""
    files = arrange(tensors, limit, cut=True)
    return {
        name: to_pieces(tensors, parts) for name, parts in zip(names_of(stem, len(files)), files, strict=True) if parts
    }


def to_pieces(
    tensors: Mapping[str, Tensor], parts: Collection[Part] | None = None, metadata: Mapping[str, str] | None = None
) -> Pieces:
    """One file with ``parts`` (default: all) of ``tensors``: what the library would write, from where they are.

    A tensor on the CPU is not copied, one on another device when its turn comes.
    """
    rows: dict[str, list[Any]] = {}
    chosen: dict[str, Tensor] = {}
    for name, span in [Part(name) for name in tensors] if parts is None else parts:
        if span is None:
            chosen[name] = tensors[name]
        else:
            key = f"{name}[{span[0]}:{span[1]}]"
            chosen[key] = tensors[name][span[0] : span[1]]
            rows[key] = [name, span[0], tensors[name].shape[0]]
    said = {**(metadata or {}), **({_ROWS: json.dumps(rows, sort_keys=True)} if rows else {})}
    order = sorted(chosen, key=lambda key: (_ORDER[chosen[key].dtype], key))
    header: dict[str, Any] = {"__metadata__": said} if said else {}
    at = 0
    for key in order:
        tensor = chosen[key]
        size = tensor_bytes(tensor)
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text

    def make() -> Iterator[bytes | memoryview]:
        yield head
        for key in order:
            yield _buffer(chosen[key])

    return Pieces(len(head) + at, make)


def _buffer(tensor: Tensor) -> memoryview:
    """The tensor's bytes; a view of them where it is on the CPU and contiguous."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def read_header(reader: ContentReader) -> Header:
    """The header of a file, of which nothing has been read yet. CorruptObjectError if it is none."""
    length = int.from_bytes(reader.read(8), "little")
    if length > min(_HEADER_LIMIT, reader.size - 8):
        raise reader.corrupt(f"its header would take {length} of {reader.size} bytes")
    return parse_header(reader.read(length), reader.size, reader)


def parse_header(text: bytes, size: int, reader: ContentReader) -> Header:
    """A header's meaning, in a file of ``size`` bytes; ``reader`` names the file in a CorruptObjectError."""
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        found = sorted((entry["data_offsets"], key, entry) for key, entry in entries.items())
        at, tensors = 0, []
        for (start, stop), key, entry in found:
            dtype, shape = _TYPES[entry["dtype"]], tuple(int(side) for side in entry["shape"])
            if start != at or not _is_shape(shape) or stop - start != _size(dtype, shape):
                raise ValueError(f"tensor {key!r} is said to be at {start} to {stop}")
            at = stop
            tensors.append((key, dtype, shape))
        if not all(isinstance(said, str) for said in metadata.values()):
            raise ValueError("its metadata are no texts")
        if 8 + len(text) + at != size:
            raise ValueError(f"its tensors take {8 + len(text) + at} of {size} bytes")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise reader.corrupt(f"its header is not that of a safetensors file ({error})") from error
    return Header(tensors, metadata, 8 + len(text))


def _is_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) <= _MOST_SIDES and all(0 <= side <= _LONGEST_SIDE for side in shape)


def _size(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    count = dtype.itemsize
    for side in shape:
        count *= side
    return count


def read_tensors(reader: ContentReader) -> Iterator[tuple[str, Tensor]]:
    """Every (key, tensor) of a file as its bytes come by, one in memory at a time; CorruptObjectError at the latest
    after the last one, if the file is not what it should be."""
    yield from _read(reader, read_header(reader))
    reader.finish()


def read_parts(reader: ContentReader) -> Iterator[tuple[str, int, int | None, Tensor]]:
    """``read_tensors`` of a file that ``to_files`` wrote: (name, first row, all rows or None where whole, tensor)."""
    header = read_header(reader)
    cuts = _cuts(header, reader)
    for key, tensor in _read(reader, header):
        name, start, total = cuts.get(key, (key, 0, None))
        yield name, start, total, tensor
    reader.finish()


def _cuts(header: Header, reader: ContentReader) -> dict[str, tuple[str, int, int | None]]:
    """Of what tensor a key holds rows, from which row on, and of how many; CorruptObjectError for what cannot be."""
    lengths = {key: shape[0] for key, _, shape in header.tensors if shape}
    cuts: dict[str, tuple[str, int, int | None]] = {}
    try:
        for key, (name, start, total) in json.loads(header.metadata.get(_ROWS, "{}")).items():
            if not isinstance(name, str) or not 0 <= start <= start + lengths[key] <= total <= _LONGEST_SIDE:
                raise ValueError(f"{key!r} is said to be rows {start} on of {total} of {name!r}")
            cuts[key] = (name, start, total)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise reader.corrupt(f"what its tensors are parts of is not said as it is written ({error})") from error
    return cuts


def _read(reader: ContentReader, header: Header) -> Iterator[tuple[str, Tensor]]:
    for key, dtype, shape in header.tensors:
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            reader.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data)
        yield key, tensor


def _room(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        raise CheckpointError(
            f"{name}: its {list(shape)} {dtype} do not fit in this machine's memory; use a larger one, or restore the "
            "files from a copy if that cannot be its size"
        ) from error


def read_whole(readers: Iterator[ContentReader]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of what ``to_files`` wrote, those that were cut once all their rows are together."""
    waiting: dict[str, tuple[Tensor, int]] = {}
    for reader in readers:
        for name, start, total, tensor in read_parts(reader):
            if total is None:
                yield name, tensor
                continue
            whole, done = waiting.pop(name, (None, 0))
            if whole is None:
                whole = _room(name, (total, *tensor.shape[1:]), tensor.dtype)
            whole[start : start + len(tensor)] = tensor
            done += len(tensor)
            if done == total:
                yield name, whole
            else:
                waiting[name] = (whole, done)
    if waiting:
        raise CheckpointError(f"{min(waiting)}: some of its rows are in no file; restore the files from a copy")
