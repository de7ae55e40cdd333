"""How many workers train: a number, or a range within which a run follows what the cluster has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.errors import InvalidRequestError

if TYPE_CHECKING:  # the command line reads a number of workers before anything needs PyTorch
    from trainer import TrainConfig

MOST = 1_000_000


@dataclass(frozen=True)
class WorkerRange:
    """From ``low`` to ``high`` workers, both included: as many as find room, and again when that changes."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str | int, name: str = "workers") -> WorkerRange:
        """``4`` or ``2..8``; InvalidRequestError naming ``name`` for anything else."""
        found = re.fullmatch(r"(\d{1,7})(?:\.\.(\d{1,7}))?", str(text), re.ASCII)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= low <= high <= MOST:
            raise InvalidRequestError(
                f"{name} = {text!r}: expected a number of workers such as 4, or a range such as 2..8; at least 1 and "
                f"at most {MOST:,}"
            )
        return cls(low, high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"

    @property
    def is_fixed(self) -> bool:
        return self.low == self.high

    @property
    def setting(self) -> int | str:
        """As a run's record has it: a number where it is one."""
        return self.low if self.is_fixed else str(self)

    def counts(self, config: TrainConfig) -> list[int]:
        """The numbers of workers in the range that share the batch evenly, each with a row for every micro batch.

        Raises InvalidRequestError if there is none.
        """
        batch = config.batch_sequences
        high = min(self.high, batch)
        even = [count for count in range(self.low, high + 1) if batch % count == 0]
        if not even:
            raise InvalidRequestError(
                f"workers = {self}: batch_sequences = {batch} is not a multiple of "
                f"{'it' if self.is_fixed else 'any of them'}; use a number of workers that divides the global batch"
            )
        return [count for count in even if batch // count >= config.micro_batches] or even[:1]


def parse_workers(workers: int | str | None) -> int | WorkerRange | None:
    """A setting as the command line or a run's record has it: a number, a range, or None for what there is room for.

    Raises InvalidRequestError.
    """
    if workers is None:
        return None
    found = WorkerRange.parse(workers)
    return found.low if found.is_fixed else found
