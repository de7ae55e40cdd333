"""The shards of a generation as tasks of a pool of actors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from orchestration.errors import GenerationFailedError, WorkerDiedError
from orchestration.generation.worker import Made

Shard = tuple[int, int]  # first sequence, rows


class ShardTasks:
    """``on_made`` is told each shard; ``title`` is what the dashboard shows, one for all shards since Ray keeps
    counters for every name."""

    def __init__(self, shards: Iterable[Shard], on_made: Callable[[Shard, Made], None], title: str) -> None:
        self._waiting, self._on_made, self._title = deque(shards), on_made, title

    def waiting(self) -> int:
        return len(self._waiting)

    def next(self) -> Shard:
        return self._waiting.popleft()

    def start(self, actor: Any, task: Shard) -> Any:
        return actor.make.options(name=self._title).remote(*task)

    def facts(self, task: Shard) -> dict[str, Any]:
        return {"first": task[0], "rows": task[1]}

    def done(self, task: Shard, result: Made) -> None:
        self._on_made(task, result)

    def failed(self, task: Shard, error: Exception) -> None:
        raise shard_error(*task, error)


def shard_error(first: int, rows: int, error: Exception) -> Exception:
    """The worker's own error, or GenerationFailedError for a shard that killed every actor it met."""
    if not isinstance(error, WorkerDiedError):
        return error
    failed = GenerationFailedError(
        f"shard of sequences {first} to {first + rows - 1}: {error}; run the command again, and with fewer "
        "--actors if memory is short"
    )
    failed.__cause__ = error
    return failed
