"""The rows of a few steps, read in a Ray task: without PyTorch, which would cost each such process seconds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from datalake import Plan, Repairer, RowReader, load_manifest
from datalake.shards.roles import COLUMN as ROLES
from datalake.shards.roles import role_column
from datalake.shards.shard_format import token_column
from datalake.shards.tokens import widest


@functools.lru_cache(maxsize=8)
def open_reader(lake_uri: str, manifest_digest: str, repairer: Repairer) -> RowReader:
    """One reader per worker process and dataset version, so that a shard is fetched and verified once per process."""
    store = repairer.open(lake_uri).store
    return repairer.reader(store, load_manifest(store, manifest_digest))


class Rows(Protocol):
    """What gives the tokens of one source's rows, ``dtype`` [N, seq_len], for int64 [N]."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def has_roles(self) -> bool: ...

    def rows(self, indices: np.ndarray) -> np.ndarray: ...

    def roles(self, indices: np.ndarray) -> np.ndarray: ...


def load_steps(
    steps: Sequence[int], *, sources: Sequence[tuple[str, str, Repairer]], plan: Plan, world: int, rank: int
) -> pa.Table:
    """Read one rank's rows of `steps`; columns step, source, row (int64), tokens (a fixed-size
    binary of the mixture's widest ``token_dtype``) and, where a source has them, roles.

    `sources` are (lake address, manifest digest, repairer) in the plan's order.
    """
    readers = [open_reader(*source) for source in sources]
    rows_R2 = plan.rank_step_range(consecutive(steps), world, rank)
    return steps_table(steps, rows_R2, readers, readers[0].manifest.seq_len)


def consecutive(steps: Sequence[int]) -> range:
    """The steps of a block as the range that they are."""
    step_range = range(int(steps[0]), int(steps[0]) + len(steps))
    assert int(steps[-1]) == step_range[-1], f"a block of steps {steps[0]} to {steps[-1]} has {len(steps)}"
    return step_range


def steps_table(steps: Sequence[int], rows_R2: np.ndarray, readers: Sequence[Rows], seq_len: int) -> pa.Table:
    """The table of ``load_steps`` from its rows, int64 [R, 2] of (source, row), and one reader per source."""
    tokens_RT = np.empty((len(rows_R2), seq_len), dtype=widest(reader.dtype for reader in readers))
    roles_RT = np.zeros(tokens_RT.shape, dtype=np.uint8) if any(reader.has_roles for reader in readers) else None
    for source, reader in enumerate(readers):
        (chosen,) = np.nonzero(rows_R2[:, 0] == source)
        if len(chosen):
            tokens_RT[chosen] = reader.rows(rows_R2[chosen, 1])
            if roles_RT is not None and reader.has_roles:
                roles_RT[chosen] = reader.roles(rows_R2[chosen, 1])
    step_R = np.repeat(np.asarray(steps, dtype=np.int64), len(rows_R2) // len(steps))
    columns = {"step": step_R, "source": rows_R2[:, 0], "row": rows_R2[:, 1], "tokens": token_column(tokens_RT)}
    if roles_RT is not None:
        columns[ROLES] = role_column(roles_RT)
    return pa.table(columns)
