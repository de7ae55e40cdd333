"""A dataset that is made while the run reads it: what the step loop must know of it, and the wait for its commit."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from trainer.data import TrainDataset
from trainer.ranks import Ranks


class PlannedData(Protocol):
    """A training dataset whose shards are being made, so that its manifest is still a computed one; the batches
    factory knows how to get its rows."""

    @property
    def dataset(self) -> TrainDataset:
        """The dataset; its reference is the version that it will be committed as."""
        ...

    def commit_facts(self) -> dict[str, Any] | None:
        """JSON-able facts for the run's result once the dataset is committed; None after some seconds in vain.

        Raises what made it impossible to commit.
        """
        ...


def wait_for_commit(planned: PlannedData, ranks: Ranks, stop: threading.Event) -> dict[str, Any] | None:
    """Wait until the dataset is committed, so that nothing published names a version that is not; its facts.

    None if rank 0 was asked to stop first. Rank 0 looks; the others hear of it often enough for no collective to time
    out.
    """

    def poll() -> tuple[bool, dict[str, Any] | None]:
        if stop.is_set():
            return True, None
        facts = planned.commit_facts()
        return facts is not None, facts

    while True:
        done, facts = ranks.from_zero(poll)
        if done:
            return facts
