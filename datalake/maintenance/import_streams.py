"""Token files that are one run of numbers: raw, with llm.c's header, or with Megatron's index beside them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datalake.errors import ImportRefusedError
from datalake.maintenance.export_layouts import LLMC_HEADER_BYTES, LLMC_KINDS, MEGATRON_MAGIC, MEGATRON_TYPES
from datalake.maintenance.import_options import ImportOptions, Piece
from datalake.shards.tokens import MAX_VOCABULARY, NARROW, WIDE, token_dtype

_AT_ONCE = 1 << 20  # tokens
_SEQUENCES_AT_ONCE = 1 << 16
_INDEX_HEAD = struct.Struct("<QBQQ")
_NOWHERE = np.empty(0, dtype=np.int64)


def bin_pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """A file of nothing but tokens, of ``binary_bits`` or what the vocabulary needs."""
    bits = options.binary_bits or 8 * token_dtype(options.vocab_size or 1).itemsize
    yield from _run(path, WIDE if bits == 32 else NARROW, 0, options)


def llmc_pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """A file with llm.c's header: 256 int32, of which magic, version and number of tokens are used."""
    with path.open("rb") as file:
        magic, version, tokens = struct.unpack("<3i", file.read(12).ljust(12, b"\0"))
    dtype = LLMC_KINDS.get((magic, version))
    if dtype is None:
        known = ", ".join(f"{kind} version {number}" for kind, number in LLMC_KINDS)
        raise ImportRefusedError(
            f"{path} has magic number {magic}, version {version}: llm.c's files of tokens have {known}; say what it "
            "is with format"
        )
    expected = LLMC_HEADER_BYTES + tokens * np.dtype(dtype).itemsize
    if path.stat().st_size != expected:
        raise ImportRefusedError(
            f"{path} is of {path.stat().st_size:,} bytes, and the {tokens:,} tokens that it claims take {expected:,}: "
            "it is not whole"
        )
    yield from _run(path, np.dtype(dtype), LLMC_HEADER_BYTES, options)


def _run(path: Path, dtype: np.dtype, start: int, options: ImportOptions) -> Iterator[Piece]:
    if options.seq_len is None:
        raise ImportRefusedError(f"{path}: it is one run of tokens; give seq_len, how many make a row")
    if options.end_of_text is not None:
        raise ImportRefusedError(
            f"end_of_text = {options.end_of_text}: {path} does not say where documents end; leave end_of_text out"
        )
    size = path.stat().st_size - start
    if size % dtype.itemsize:
        raise ImportRefusedError(
            f"{path} is of {size:,} bytes, no whole number of {8 * dtype.itemsize}-bit tokens: say what they are with "
            "binary_bits"
        )
    with path.open("rb") as file:
        file.seek(start)
        while len(tokens := np.fromfile(file, dtype=dtype, count=_AT_ONCE)):
            yield _checked(path, tokens), _NOWHERE


def megatron_pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """The documents that the index ``path`` (NAME.idx) finds in NAME.bin (see ``export_layouts.megatron_index``)."""
    del options  # the index says it all
    with path.open("rb") as file:
        head = file.read(_INDEX_HEAD.size + len(MEGATRON_MAGIC))
    if len(head) < _INDEX_HEAD.size + len(MEGATRON_MAGIC) or not head.startswith(MEGATRON_MAGIC):
        raise ImportRefusedError(f"{path} does not begin as one of Megatron's indices: give the one of its `.bin` file")
    version, code, sequences, bounds = _INDEX_HEAD.unpack(head[len(MEGATRON_MAGIC) :])
    if version != 1 or code not in MEGATRON_TYPES:
        allowed = ", ".join(f"{number} ({kind})" for number, kind in MEGATRON_TYPES.items())
        raise ImportRefusedError(
            f"{path}: version {version}, tokens of type {code}: known are version 1, types {allowed}"
        )
    dtype, start = np.dtype(MEGATRON_TYPES[code]), len(head)
    if path.stat().st_size != start + 12 * sequences + 8 * bounds or not bounds:
        raise ImportRefusedError(
            f"{path} is of {path.stat().st_size:,} bytes, and {sequences:,} sequences with {bounds:,} bounds of "
            f"documents take {start + 12 * sequences + 8 * bounds:,}: it is not whole"
        )
    if not sequences:
        return
    lengths = np.memmap(path, dtype="<i4", mode="r", offset=start, shape=sequences)
    places = np.memmap(path, dtype="<i8", mode="r", offset=start + 4 * sequences, shape=sequences)
    documents = np.memmap(path, dtype="<i8", mode="r", offset=start + 12 * sequences, shape=bounds)
    tokens = path.with_suffix(".bin")
    size = tokens.stat().st_size
    if documents[0] != 0 or documents[-1] != sequences:
        raise ImportRefusedError(f"{path}: its documents do not go from the first sequence to the last: it is damaged")
    with tokens.open("rb") as file:
        for first in range(0, sequences, _SEQUENCES_AT_ONCE):
            sizes = np.asarray(lengths[first : first + _SEQUENCES_AT_ONCE], dtype=np.int64)
            offsets = np.asarray(places[first : first + _SEQUENCES_AT_ONCE])
            if (sizes < 0).any() or (offsets < 0).any() or (offsets > size - sizes * dtype.itemsize).any():
                raise ImportRefusedError(
                    f"{path} names tokens that {tokens} does not have: they do not belong together"
                )
            low, high = np.searchsorted(documents, [first + 1, first + len(sizes) + 1])
            ending = np.isin(np.arange(first + 1, first + len(sizes) + 1), documents[low:high])
            for offset, count, ends in _runs(dtype, sizes, offsets, ending):
                file.seek(offset)
                for done in range(0, max(count, 1), _AT_ONCE):
                    piece = np.fromfile(file, dtype=dtype, count=min(_AT_ONCE, count - done))
                    here = ends[(ends > (done or -1)) & (ends <= done + len(piece))]
                    yield _checked(tokens, piece), here - done


def _runs(
    dtype: np.dtype, sizes: np.ndarray, offsets: np.ndarray, ending: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(offset, tokens, where in them documents end): of all sequences if they lie end to end, else of each."""
    ends = np.cumsum(sizes)
    if (offsets == offsets[0] + dtype.itemsize * (ends - sizes)).all():
        yield int(offsets[0]), int(ends[-1]), ends[ending]
        return
    for offset, count, last in zip(offsets.tolist(), sizes.tolist(), ending.tolist(), strict=True):
        yield offset, count, np.array([count] if last else [], dtype=np.int64)


def _checked(path: Path, tokens: np.ndarray) -> np.ndarray:
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < MAX_VOCABULARY:
        raise ImportRefusedError(
            f"{path} has values from {tokens.min()} to {tokens.max()}: tokens are 0 to {MAX_VOCABULARY - 1}"
        )
    return tokens.astype(WIDE)
