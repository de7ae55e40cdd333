"""The same events as a Weights & Biases run, for those who watch runs there; W&B's own settings say where it goes.

What W&B lacks at the beginning is refused before anything is computed. What happens to it later is its own: the run
goes on without it, and says so once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trainer.errors import ConfigError
from trainer.tensorboard import OnEvent, scalars


@contextmanager
def wandb_listening(project: str, run: str, say: Callable[[str], None]) -> Iterator[OnEvent]:
    """An ``on_event`` that logs to run ``run`` of ``project``; it is marked failed if the block raises.

    ``WANDB_MODE=offline`` keeps it on disk. A resumed run goes on in the same W&B run; what a killed attempt had logged
    after its last checkpoint stays, and its repetition, equal to the bit, is dropped. ``say`` gets one line if W&B is
    lost on the way. ConfigError without wandb, without a key to log in with, or if W&B takes no run.
    """
    try:
        import wandb  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"wandb = {project!r}: the package wandb is not installed; install the extra 'wandb' "
            "(pip install 'morphogen[wandb]') or leave wandb out"
        ) from error
    mirror = _Mirror(wandb, project, run, say)
    try:
        yield mirror.log
    except BaseException:
        mirror.end(exit_code=1)
        raise
    mirror.end(exit_code=0)


class _Mirror:
    """The W&B run, for as long as it is there."""

    def __init__(self, wandb: Any, project: str, run: str, say: Callable[[str], None]) -> None:
        self._wandb, self._say = wandb, say
        offline = "set WANDB_MODE=offline to keep it on disk, or leave wandb out"
        try:
            if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
                raise ConfigError(f"wandb = {project!r}: no API key found; set WANDB_API_KEY, {offline}")
            self._run: Any = wandb.init(project=project, id=run, name=run, resume="allow")
        except (wandb.Error, OSError, ValueError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"wandb = {project!r}: W&B takes no run ({line}); {offline}") from error

    def log(self, event: dict[str, Any]) -> None:
        """Hand an event of the step loop on."""
        kind = event["event"]
        if kind == "start":
            facts = {key: value for key, value in event.items() if key not in ("event", "step")}
            self._try(lambda run: run.config.update(facts, allow_val_change=True))
        elif kind in ("step", "eval"):
            self._try(lambda run: run.log(scalars(event), step=event["step"]))
        elif kind == "finished":
            self._try(lambda run: run.summary.update({"model": event["result"]["model"]}))

    def end(self, exit_code: int) -> None:
        """Finish the W&B run."""
        self._try(lambda run: run.finish(exit_code=exit_code))

    def _try(self, call: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # noqa: BLE001  (whatever it is, training does not need it)
            self._run = None
            line = (str(error).splitlines() or [""])[0]
            self._say(f"W&B is lost ({type(error).__name__}: {line}): the run goes on without it")
            self._end_service()

    def _end_service(self) -> None:
        """End what is left of W&B here: or else its own exit handler would end the process with a traceback."""
        try:
            self._wandb.teardown()
        except Exception as error:  # noqa: BLE001  (it is lost already, which has been said)
            del error
