"""Batches: rows that the plan names, read from the lake, and refused when they are anything else.

A batches factory is ``factory(plan, start_step, steps, world, rank, datasets) -> Iterator[Batch]`` and yields one
rank's batches of steps ``start_step`` … ``steps - 1``, in order. The one here reads with a thread that stays a few
batches ahead; orchestration brings one that streams through Ray Data. The loop trusts neither: see ``check_batch``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from datalake import Manifest, Plan, Repairer, RowReader, Store
from datalake.lake import ModelFiles
from datalake.shards.tokens import widest
from generator import SpecGenerator
from trainer.errors import PlanMismatchError

if TYPE_CHECKING:  # a job is made, and its rows are read, without PyTorch
    import torch

PREFETCH_BATCHES = 4

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step: ``rows`` int64 [B, 2] = (source, row), ``tokens`` uint16, uint32 or int64
    [B, T]; ``roles`` uint8 [B, T] where some source says what its tokens are for (0 in the rows of the others)."""

    step: int
    rows: np.ndarray
    tokens: np.ndarray | torch.Tensor
    roles: np.ndarray | None = None


@dataclass(frozen=True)
class TrainDataset:
    """One source of the mixture: its reference "NAME@VERSION", its manifest (computed, while its
    shards are being made), the store that holds its shards, the parameter version "NAME@VERSION" it was made by, if
    any, and the repairer that knows what to do about damage."""

    ref: str
    manifest: Manifest
    store: Store
    params: str | None = None
    repairer: Repairer = field(default_factory=Repairer)

    def reader(self) -> RowReader:
        """A fresh reader with its own cache: shards are checked against the manifest as they are fetched, the rows of a
        computed dataset are made here. Raises GeneratorVersionError where they would be other rows."""
        return self.repairer.reader(self.store, self.manifest, SpecGenerator(ModelFiles(self.store.uri)))


class BatchesFactory(Protocol):
    """See the module's docstring."""

    def __call__(
        self, plan: Plan, start_step: int, steps: int, world: int, rank: int, datasets: Sequence[TrainDataset]
    ) -> Iterator[Batch]: ...


def check_batch(batch: Batch, plan: Plan, step: int, world: int, rank: int) -> torch.Tensor:
    """The batch's tokens as int64 [B, T]; PlanMismatchError unless they are those of (step, rank) in plan order."""
    expected_B2 = plan.rank_rows(step, world, rank)
    found_B2 = np.asarray(batch.rows)
    if batch.step != step:
        raise PlanMismatchError(
            f"batch says step {batch.step}, the plan is at step {step} (rank {rank} of {world}); "
            "start the stream at the step that the run resumes from"
        )
    if found_B2.shape != expected_B2.shape or not np.array_equal(found_B2, expected_B2):
        raise PlanMismatchError(
            f"step {step}, rank {rank} of {world}: {_difference(expected_B2, found_B2)}; "
            "the stream must keep the plan's order and drop nothing"
        )
    import torch

    tokens_BT = torch.as_tensor(np.asarray(batch.tokens).astype(np.int64, copy=False))
    if tokens_BT.ndim != 2 or tokens_BT.shape[0] != expected_B2.shape[0]:
        raise PlanMismatchError(
            f"step {step}, rank {rank} of {world}: tokens have shape {list(tokens_BT.shape)} for "
            f"{expected_B2.shape[0]} rows; send one sequence per row"
        )
    return tokens_BT


@contextmanager
def closing_batches(batches: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Close the stream on the way out, if it can be closed, so that no reader outlives the loop."""
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            batches.close()


def next_batch(batches: Iterator[Item], step: int) -> Item:
    """The next batch; PlanMismatchError when the stream ends before ``step``."""
    try:
        return next(batches)
    except StopIteration:
        raise PlanMismatchError(
            f"the stream of batches ended before step {step}; it must yield one batch for every step of the run"
        ) from None


def _difference(expected_B2: np.ndarray, found_B2: np.ndarray) -> str:
    if found_B2.shape != expected_B2.shape:
        return f"rows have shape {list(found_B2.shape)}, the plan says {list(expected_B2.shape)}"
    at = int(np.flatnonzero((found_B2 != expected_B2).any(axis=1))[0])
    return f"row {at} is (source, row) {tuple(found_B2[at].tolist())}, the plan says {tuple(expected_B2[at].tolist())}"


def read_batch(plan: Plan, step: int, world: int, rank: int, readers: Sequence[RowReader]) -> Batch:
    """Fetch one rank's rows of one step."""
    rows_B2 = plan.rank_rows(step, world, rank)
    dtype = widest(reader.dtype for reader in readers)
    tokens_BT = np.empty((len(rows_B2), readers[0].manifest.seq_len), dtype=dtype)
    roles_BT = np.zeros(tokens_BT.shape, dtype=np.uint8) if any(reader.has_roles for reader in readers) else None
    for source, reader in enumerate(readers):
        mine_B = rows_B2[:, 0] == source
        if mine_B.any():
            tokens_BT[mine_B] = reader.rows(rows_B2[mine_B, 1])
            if roles_BT is not None and reader.has_roles:
                roles_BT[mine_B] = reader.roles(rows_B2[mine_B, 1])
    return Batch(step, rows_B2, tokens_BT, roles_BT)


def prefetch(plan: Plan, steps: range, world: int, rank: int, readers: Sequence[RowReader]) -> None:
    """Have at hand one rank's rows of these steps, or the shards that they lie in."""
    rows_N2 = np.concatenate([plan.rank_rows(step, world, rank) for step in steps])
    for source, reader in enumerate(readers):
        reader.prefetch(rows_N2[rows_N2[:, 0] == source, 1])


def local_batches(
    plan: Plan, start_step: int, steps: int, world: int, rank: int, datasets: Sequence[TrainDataset]
) -> Iterator[Batch]:
    """Read straight from the store, up to ``PREFETCH_BATCHES`` ahead in a thread that ends with the iterator."""
    readers = [dataset.reader() for dataset in datasets]

    def batches() -> Iterator[Batch]:
        for step in range(start_step, steps):
            if (step - start_step) % PREFETCH_BATCHES == 0:  # so that shards come side by side, not in turn
                prefetch(plan, range(step, min(step + PREFETCH_BATCHES, steps)), world, rank, readers)
            yield read_batch(plan, step, world, rank, readers)

    yield from made_ahead(batches(), PREFETCH_BATCHES, f"batches-{rank}")


def made_ahead(items: Iterator[Item], most: int, name: str) -> Iterator[Item]:
    """Yield ``items``, made up to ``most`` ahead in a thread called ``name`` that ends with this iterator.

    What making an item raises is raised where the item would have come.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(most)
    closed = threading.Event()

    def put(item: Item | _End) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  (handed to the consumer, who raises it)
            put(_End(error))
        else:
            put(_End(None))

    thread = threading.Thread(target=make, name=name, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        closed.set()
        thread.join()


@dataclass(frozen=True)
class _End:
    """What comes after the last item; ``error`` is what ended them early."""

    error: BaseException | None
