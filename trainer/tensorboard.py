"""The same events as TensorBoard's files, for those who watch runs there; the run's own record does not need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError

OnEvent = Callable[[dict[str, Any]], None]


@contextmanager
def listening(on_event: OnEvent | None, folder: str | None, run: str) -> Iterator[OnEvent]:
    """What the loop notifies: the caller's ``on_event``, if any, and event files below ``folder``, if given."""
    files = EventFiles(folder, run) if folder is not None else None
    listeners: list[OnEvent] = [listener for listener in (files, on_event) if listener is not None]

    def notify(event: dict[str, Any]) -> None:
        for listener in listeners:
            listener(event)

    try:
        yield notify
    finally:
        if files is not None:
            files.close()


class EventFiles:
    """Writes scalars of "step" and "eval" events under ``folder``/``run``. Listens to the loop like any ``on_event``.

    A resumed run's writer hides what a killed attempt wrote after the checkpoint (TensorBoard's ``purge_step``).
    ConfigError if tensorboardX is not installed.
    """

    def __init__(self, folder: str, run: str) -> None:
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
        except ImportError as error:
            raise ConfigError(
                f"tensorboard = {folder!r}: needs the package tensorboardX; install it or leave tensorboard out"
            ) from error
        self._open = lambda step: SummaryWriter(str(Path(folder) / run), purge_step=step + 1)
        self._writer: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self._writer = self._open(event["step"])
        elif kind == "step":
            self._write("train", event, event["step"], skip=("step", "steps"))
        elif kind == "eval":
            self._write(f"eval/{event['dataset'].replace('@', '.')}", event, event["step"], skip=("step",))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, prefix: str, values: dict[str, Any], step: int, skip: tuple[str, ...]) -> None:
        for key, value in values.items():
            if isinstance(value, int | float) and key not in skip:
                self._writer.add_scalar(f"{prefix}/{key}", value, step)
