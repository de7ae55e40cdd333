"""What each token of a row is for, where a dataset says so: padding, given, or part of an answer that is to be learnt.

Rows of prompts and answers are of many shapes, so no rule of positions could say it. It is a column of the shard beside
the tokens, two bits a token, four tokens to a byte, the first in the lowest bits; the shard's SHA-256 covers it as it
covers them. A dataset has the column where its source's spec says ``roles``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datalake.errors import ManifestError
from datalake.shards.manifest import Manifest

COLUMN = "roles"
PADDING, GIVEN, ANSWER = range(3)
"""After the last document of a row; shown, to be predicted by nobody in particular; what is asked for."""

SPEC_FIELD = "roles"
VERSION = 1
"""What the spec's field says of a column packed as here."""

_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8)


def has_roles(manifest: Manifest) -> bool:
    """Whether the rows say what each token is for. Raises ManifestError if they say it in a way unknown here."""
    if manifest.kind != "text" or (version := manifest.source.spec.get(SPEC_FIELD)) is None:
        return False
    if version != VERSION:
        raise ManifestError(f"roles = {version!r}: this version reads roles of version {VERSION}; install a newer one")
    return True


def role_column(roles_NT: np.ndarray) -> pa.Array:
    """Roles [N, seq_len] as a shard's column."""
    rows, length = roles_NT.shape
    padded = np.zeros((rows, -(-length // 4) * 4), dtype=np.uint8)
    padded[:, :length] = roles_NT
    packed = np.bitwise_or.reduce(padded.reshape(rows, -1, 4) << _SHIFTS, axis=2)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(packed.shape[1]), rows, [None, pa.py_buffer(packed.tobytes())]
    )


def roles_of(table: pa.Table, seq_len: int) -> np.ndarray:
    """The roles of a table's rows: uint8 [rows, seq_len]."""
    return unpacked(packed_of(table), seq_len)


def packed_of(table: pa.Table) -> np.ndarray:
    """The column's bytes, uint8 [rows, bytes of a row], without a copy. Raises ManifestError where there is none."""
    if COLUMN not in table.column_names:
        raise ManifestError(f"no column {COLUMN!r} in a shard of a dataset that has roles: it has {table.column_names}")
    column = table.column(COLUMN).combine_chunks()
    width = column.type.byte_width
    raw = memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]
    return np.frombuffer(raw, dtype=np.uint8).reshape(len(column), width)


def unpacked(packed_NB: np.ndarray, seq_len: int) -> np.ndarray:
    """Packed roles [N, bytes of a row] as uint8 [N, seq_len]."""
    roles = (packed_NB[:, :, None] >> _SHIFTS) & 3
    return roles.reshape(len(packed_NB), -1)[:, :seq_len]
