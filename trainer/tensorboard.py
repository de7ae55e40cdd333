"""The same events as TensorBoard's files, for those who watch runs there; the run's own record does not need them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datalake.events import log_event
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


def scalars(event: dict[str, Any]) -> dict[str, float]:
    """The numbers of a "step" or "eval" event by the name they are watched under; nothing of other events."""
    prefix = {"step": "train", "eval": f"eval/{str(event.get('dataset')).replace('@', '.')}"}.get(event["event"])
    if prefix is None:
        return {}
    answers = {f"answers/{key}": value for key, value in event.get("answers", {}).items()}
    return {
        f"{prefix}/{key}": value
        for key, value in {**event, **answers}.items()
        if isinstance(value, int | float) and key not in ("step", "steps")
    }


class EventFiles:
    """Writes scalars of "step" and "eval" events under ``folder``/``run``. Listens to the loop like any ``on_event``.

    A resumed run's writer hides what a killed attempt wrote after the checkpoint (TensorBoard's ``purge_step``).
    ConfigError if tensorboardX is not installed, or the folder takes no files.
    """

    def __init__(self, folder: str, run: str) -> None:
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
        except ImportError as error:
            raise ConfigError(
                f"tensorboard = {folder!r}: needs the package tensorboardX; install it or leave tensorboard out"
            ) from error
        path = Path(folder).expanduser() / run
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise ConfigError(
                f"tensorboard = {folder!r}: no files can be made in {path} ({error.strerror or error}); give a folder "
                "that you may write, or leave tensorboard out"
            ) from error
        self._open = lambda step: SummaryWriter(str(path), purge_step=step + 1)
        self._writer: Any = None
        self._lost = False

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self._try(lambda: self._begin(event["step"]))
        for name, value in scalars(event).items():
            self._try(lambda name=name, value=value: self._writer.add_scalar(name, value, event["step"]))  # type: ignore[misc]

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._try(self._writer.close)

    def _begin(self, step: int) -> None:
        self._writer = self._open(step)

    def _try(self, call: Callable[[], Any]) -> None:
        """A run does not end because a disk for its curves is full or gone: that is told, and no more is written."""
        if self._lost:
            return
        try:
            call()
        except OSError as error:
            self._lost = True
            log_event("tensorboard_lost", level=logging.WARNING, logger="morphogen.trainer", error=str(error))
