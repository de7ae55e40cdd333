"""The layouts of other programs' token files, as those programs read them; numbers are little-endian."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import numpy as np

LLMC_MOST_TOKENS = 2**31 - 1  # its header counts in int32
MOST_LLMC_VOCABULARY = 1 << 16
LLMC_HEADER_BYTES = 1024
# Magic number and version of the two kinds of files: of GPT-2's vocabulary, and of Llama 3's.
_LLMC_MAGIC, _LLMC_VERSION = 20240520, 1
LLMC_KINDS = {(_LLMC_MAGIC, _LLMC_VERSION): "<u2", (20240801, 7): "<u4"}

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_MEGATRON_TYPES = {"<u2": 8, "<u4": 4}  # it has no uint32: ids below 2**31 are the same as int32

LITDATA_INDEX = "index.json"
LITDATA_MOST_BYTES = (1 << 32) - 1  # offsets in a chunk are uint32
# Data formats of a chunk's items that are plain tokens, and the numbers by which litdata knows their types.
LITDATA_NUMPY = {1: "<i2", 2: "<i4", 3: "<i8", 4: "<u1", 5: "<u2", 6: "<u4", 7: "<u8", 0: "<i1"}
LITDATA_TENSOR = {11: "<u1", 12: "<i1", 13: "<i2", 14: "<i2", 15: "<i4", 16: "<i4", 17: "<i8", 18: "<i8", 20: "<u2"}
_LITDATA_TYPES = {"<u2": 5, "<u4": 2}  # ids below 2**31 are the same as int32, which PyTorch computes with

_CHUNK = 1 << 20


def llmc_header(tokens: int) -> bytes:
    """256 int32: magic, version 1 (tokens are uint16), number of tokens, zeros (llm.c, `dev/data/data_common.py`)."""
    header = np.zeros(LLMC_HEADER_BYTES // 4, dtype="<i4")
    header[:3] = _LLMC_MAGIC, _LLMC_VERSION, tokens
    return header.tobytes()


def megatron_index(sequences: int, seq_len: int, dtype: np.dtype) -> Iterator[bytes]:
    """The index of ``sequences`` rows of ``seq_len`` tokens, each a document (Megatron-LM, `indexed_dataset.py`).

    Magic, version 1 (uint64), type of a token (uint8), number of sequences and of document bounds (uint64 each); length
    of each sequence (int32), its offset in bytes (int64), the first sequence of each document, and the end (int64).
    """
    yield MEGATRON_MAGIC + struct.pack("<QBQQ", 1, _MEGATRON_TYPES[dtype.str], sequences, sequences + 1)
    for kind, scale, count in (
        ("<i4", 0, sequences),
        ("<i8", seq_len * dtype.itemsize, sequences),
        ("<i8", 1, sequences + 1),
    ):
        for first in range(0, count, _CHUNK):
            numbers = np.arange(first, min(first + _CHUNK, count), dtype=kind)
            yield (numbers * scale if scale else np.full(len(numbers), seq_len, dtype=kind)).astype(kind).tobytes()


def litdata_head(rows: int, row_bytes: int) -> bytes:
    """What a chunk of ``rows`` items of ``row_bytes`` begins with (litdata, `streaming/writer.py`): their number, and
    where each begins and the last one ends in the file (uint32)."""
    start = litdata_head_bytes(rows)
    offsets = start + row_bytes * np.arange(rows + 1, dtype=np.int64)
    return np.concatenate([[rows], offsets]).astype("<u4").tobytes()


def litdata_head_bytes(rows: int) -> int:
    """Bytes before the first item of a chunk of ``rows``."""
    return 4 * (rows + 2)


def litdata_index(chunks: Mapping[str, int], seq_len: int, dtype: np.dtype, name: str) -> bytes:
    """``index.json`` over ``chunks``, file name to rows, as litdata's writer makes it with a `TokensLoader`.

    ``name`` stands for the time of writing, which tells a reader's cache one set of chunks from another.
    """
    row_bytes = seq_len * dtype.itemsize
    config = {
        "chunk_bytes": None,
        "chunk_size": max(chunks.values()),
        "compression": None,
        "data_format": [f"no_header_numpy:{_LITDATA_TYPES[dtype.str]}"],
        "data_spec": json.dumps([1, {"type": None, "context": None, "children_spec": []}]),  # one leaf, no tree
        "encryption": None,
        "item_loader": "TokensLoader",
    }
    listed = [
        {
            "chunk_bytes": litdata_head_bytes(rows) + rows * row_bytes,
            "chunk_size": rows,
            "dim": rows * seq_len,
            "filename": file,
        }
        for file, rows in chunks.items()
    ]
    return json.dumps({"chunks": listed, "config": config, "updated_at": name}, sort_keys=True).encode()
