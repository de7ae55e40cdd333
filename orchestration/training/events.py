"""The queue that a job's workers put their events on and its driver reads them from, wherever either runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

OnEvent = Callable[[dict[str, Any]], None]


class EventSender:
    """Sends events to the queue from whatever process it travels to."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def __call__(self, event: dict[str, Any]) -> None:
        self._queue.push.remote(event)


class EventQueue:
    """Carries the workers' events to the driver, which shows them, and the first named error, which it raises.

    A result is a record (JSON) here: this actor need not spend seconds on importing PyTorch.
    """

    def __init__(self, run: str = "") -> None:
        self._run = run
        self._events: list[dict[str, Any]] = []
        self._error: Exception | None = None
        self._result: dict[str, Any] | None = None
        self._paused = False

    def __repr__(self) -> str:
        return f"events of {self._run}"  # Ray's dashboard shows it

    def push(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    def drain(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def finish(self, result: dict[str, Any]) -> None:
        self._result = result

    def pause(self) -> None:
        """Ask the workers to checkpoint and end, so that others can go on."""
        self._paused = True

    def paused(self) -> bool:
        return self._paused

    def outcome(self) -> tuple[dict[str, Any] | None, Exception | None]:
        """The workers' result and their first named error."""
        return self._result, self._error


class EventReader:
    """The driver's end of a queue, asked again and again for what is new; it never waits for a queue that is gone."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._asked: Any = None

    def read(self, within_s: float) -> list[dict[str, Any]]:
        """Events since the last call; none from a queue that is gone or out of reach.

        On a busy machine none either: what was asked for comes with a later call.
        """
        self._asked = self._asked or self._queue.drain.remote()
        try:
            events: list[dict[str, Any]] = ray.get(self._asked, timeout=within_s)
        except GetTimeoutError:
            return []
        except RayActorError:
            events = []
        self._asked = None
        return events
