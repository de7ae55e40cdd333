"""What the ranks of one run say to each other. With world = 1 nothing is sent and torch.distributed is not touched.

Decisions (which checkpoint to resume from, whether a name is taken) are made once, on rank 0, and broadcast with their
failure: a rank that raised alone would leave the others waiting in a collective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.errors import ConfigError, RankError, RankZeroError
from trainer.precision import pick_device

T = TypeVar("T")
UPLOAD_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """This process's place among ``world`` processes, the device and group (None: all) that its collectives run on.

    ``upload_timeout`` is how long a rank whose part of a checkpoint is uploaded waits for the slowest one.
    """

    rank: int
    world: int
    device: torch.device
    group: Any = None
    upload_timeout: timedelta = UPLOAD_TIMEOUT

    @classmethod
    def here(
        cls, rank: int = 0, world: int = 1, device: str | None = None, upload_timeout: timedelta = UPLOAD_TIMEOUT
    ) -> Ranks:
        """This process as one of ``world`` (by default alone), on ``device`` (CUDA by default where there is one)."""
        return cls(rank, world, pick_device(device), upload_timeout=upload_timeout)

    def check(self) -> None:
        """ConfigError unless torch.distributed, initialised by the caller, agrees with (rank, world)."""
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank = {self.rank}: must lie in [0, world = {self.world}); fix the caller")
        if self.world == 1:
            return
        if not dist.is_initialized():
            raise ConfigError(
                f"world = {self.world}: torch.distributed is not initialised; call init_process_group first"
            )
        if (dist.get_rank(), dist.get_world_size()) != (self.rank, self.world):
            raise ConfigError(
                f"rank {self.rank} of {self.world}: torch.distributed says rank {dist.get_rank()} of "
                f"{dist.get_world_size()}; pass the same numbers to both"
            )

    @contextmanager
    def apart(self) -> Iterator[Ranks]:
        """The same ranks in a group of their own on the CPU, for a thread that works beside the step loop.

        Collectives of one group must be called in the same order on every rank, which two threads could not guarantee.
        """
        if self.world == 1:
            yield self
            return
        group = dist.new_group(backend="gloo", timeout=self.upload_timeout)
        try:
            yield Ranks(self.rank, self.world, torch.device("cpu"), group)
        finally:
            dist.destroy_process_group(group)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in float64; bit-equal on every rank."""
        if self.world == 1:
            return [*values]
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def from_zero(self, make: Callable[[], T]) -> T:
        """``make()`` of rank 0, on every rank. Its exception is raised on rank 0, a RankZeroError on the others."""
        if self.world == 1:
            return make()
        value, error = _attempt(make) if self.rank == 0 else (None, None)
        box: list[Any] = [value, _say(error)]
        dist.broadcast_object_list(box, src=0, group=self.group, device=self.device)
        if error is not None:
            raise error
        if box[1] is not None:
            raise RankZeroError(f"rank 0 failed: {box[1]}")
        return box[0]

    def each(self, make: Callable[[], T]) -> list[T]:
        """``make()`` of every rank, by rank, on every rank. Who fails raises its exception, all others a RankError."""
        if self.world == 1:
            return [make()]
        value, error = _attempt(make)
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, (value, _say(error)), group=self.group)
        if error is not None:
            raise error
        for rank, (_, problem) in enumerate(boxes):
            if problem is not None:
                raise RankError(f"rank {rank} failed: {problem}")
        return [made for made, _ in boxes]


def _attempt(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What ``make`` returns, or the exception that its caller raises once the other ranks have been told."""
    try:
        return make(), None
    except Exception as error:  # noqa: BLE001
        return None, error


def _say(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"
