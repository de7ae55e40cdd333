"""The layouts of other programs' token files, as those programs read them; numbers are little-endian."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

LLMC_MOST_TOKENS = 2**31 - 1  # its header counts in int32
MOST_LLMC_VOCABULARY = 1 << 16
LLMC_HEADER_BYTES = 1024
# Magic number and version of the two kinds of files: of GPT-2's vocabulary, and of Llama 3's.
_LLMC_MAGIC, _LLMC_VERSION = 20240520, 1
LLMC_KINDS = {(_LLMC_MAGIC, _LLMC_VERSION): "<u2", (20240801, 7): "<u4"}
_LLMC_FILE_TOKENS = 100_000_000  # what those who publish data for these trainers put into a file

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_MEGATRON_TYPES = {"<u2": 8, "<u4": 4}  # it has no uint32: ids below 2**31 are the same as int32
_CHUNK = 1 << 20


def llmc_header(tokens: int) -> bytes:
    """256 int32: magic, version 1 (tokens are uint16), number of tokens, zeros (llm.c, `dev/data/data_common.py`)."""
    header = np.zeros(LLMC_HEADER_BYTES // 4, dtype="<i4")
    header[:3] = _LLMC_MAGIC, _LLMC_VERSION, tokens
    return header.tobytes()


def llmc_files(shard_tokens: Sequence[int], most: int = _LLMC_FILE_TOKENS) -> list[range]:
    """Which shards go into each file: as many as stay within ``most`` tokens, and at least one."""
    files: list[range] = []
    start, tokens = 0, 0
    for number, count in enumerate(shard_tokens):
        if number > start and tokens + count > most:
            files.append(range(start, number))
            start, tokens = number, 0
        tokens += count
    return [*files, range(start, len(shard_tokens))]


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
