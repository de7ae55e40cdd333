"""What the ranks of one run say to each other. With world = 1 nothing is sent and torch.distributed is not touched.

Decisions (which checkpoint to resume from, whether a name is taken) are made once, on rank 0, and broadcast with their
failure: a rank that raised alone would leave the others waiting in a collective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.errors import ConfigError, RankZeroError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among ``world`` processes, and the device its collectives run on."""

    rank: int
    world: int
    device: torch.device

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

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over ranks, in float64; bit-equal on every rank."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def from_zero(self, make: Callable[[], T]) -> T:
        """``make()`` of rank 0, on every rank. Its exception is raised on rank 0, a RankZeroError on the others."""
        if self.world == 1:
            return make()
        error: Exception | None = None
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except Exception as caught:  # noqa: BLE001  (raised below, after the other ranks have been told)
                error, box[1] = caught, f"{type(caught).__name__}: {caught}"
        dist.broadcast_object_list(box, src=0, device=self.device)
        if error is not None:
            raise error
        if box[1] is not None:
            raise RankZeroError(f"rank 0 failed: {box[1]}")
        return box[0]
