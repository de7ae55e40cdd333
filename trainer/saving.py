"""Checkpoints beside the step loop: a step waits for a copy of the state, a thread uploads, verifies and names it.

At most one is in flight. While one is, its thread alone writes the run's log; the loop waits for it before it writes.
What goes wrong in the thread is raised by the loop, on all ranks at the same step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from datalake.runs.run import METRICS
from trainer.checkpoint import Snapshot
from trainer.metrics import Record, encode_records
from trainer.ranks import Ranks
from trainer.record import RunRecord


class Saver:
    """Saves one attempt's checkpoints; every rank makes the same calls at the same steps.

    ``on_event`` gets {"event": "checkpoint", "step"} once that step's checkpoint is named, in the loop's own thread.
    """

    def __init__(self, record: RunRecord, beside: Ranks, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._record = record
        self._beside = beside
        self._on_event = on_event
        self._thread: threading.Thread | None = None
        self._step = 0
        self._error: Exception | None = None

    def save(self, step: int, snapshot: Callable[[], Snapshot], records: list[Record]) -> None:
        """Copy this rank's part of the state after ``step`` and begin to save it, once the one before is named.

        ``records`` are the metrics since then. Raises what ``snapshot`` raises, on whichever rank, and as ``wait``.
        """
        self.wait()
        taken: Snapshot = {}
        self._record.ranks.each(lambda: taken.update(snapshot()))
        if self._record.ranks.rank == 0:
            taken[METRICS] = encode_records(records)
        self._step = step
        name = f"checkpoint-{self._record.ranks.rank}"
        self._thread = threading.Thread(target=self._save, args=(step, taken), name=name, daemon=True)
        self._thread.start()

    def failed(self) -> bool:
        """Whether ``wait`` would raise at once on this rank; says on the way what has been named since."""
        if self._thread is not None and not self._thread.is_alive() and self._error is None:
            self.wait()
        return self._error is not None

    def wait(self) -> None:
        """Until nothing is in flight. Raises what its thread met: its own error, or another rank's as a RankError."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
        self._on_event({"event": "checkpoint", "step": self._step})

    def kept(self) -> int:
        """The step of the last good checkpoint, when what is in flight has come to its end."""
        if self._thread is not None:
            self._thread.join()
        return self._record.step

    def give_up(self, reason: BaseException) -> None:
        """Let what is in flight come to its end although the run ends for ``reason``, which stays what is raised."""
        self.kept()
        if self._error is not None:
            reason.add_note(f"and the checkpoint of step {self._step} was not named: {self._error}")

    def _save(self, step: int, taken: Snapshot) -> None:
        try:
            self._record.save(step, taken, self._beside)
        except Exception as error:  # noqa: BLE001  (raised by wait)
            self._error = error


@contextmanager
def saving(record: RunRecord, on_event: Callable[[dict[str, Any]], None]) -> Iterator[Saver]:
    """A saver that has nothing in flight on the way out: what was begun is named, or its error raised."""
    with record.ranks.apart() as beside:
        saver = Saver(record, beside, on_event)
        try:
            yield saver
        except BaseException as reason:
            saver.give_up(reason)
            raise
        saver.wait()
