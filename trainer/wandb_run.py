"""The same events as a Weights & Biases run, for those who watch runs there; W&B's own settings say where it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.errors import ConfigError
from trainer.tensorboard import OnEvent, scalars


@contextmanager
def wandb_listening(project: str, run: str) -> Iterator[OnEvent]:
    """An ``on_event`` that logs to run ``run`` of ``project``; it is marked failed if the block raises.

    ``WANDB_MODE=offline`` keeps it on disk. A resumed run goes on in the same W&B run; what a killed attempt had logged
    after its last checkpoint stays, and its repetition, equal to the bit, is dropped. ConfigError without wandb.
    """
    try:
        import wandb  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"wandb = {project!r}: the package wandb is not installed; install the extra 'wandb' "
            "(pip install 'morphogen[wandb]') or leave wandb out"
        ) from error
    opened: list[Any] = []

    def log(event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start" and not opened:
            facts = {key: value for key, value in event.items() if key not in ("event", "step")}
            opened.append(wandb.init(project=project, id=run, name=run, resume="allow", config=facts))
        elif kind in ("step", "eval"):
            opened[0].log(scalars(event), step=event["step"])
        elif kind == "finished":
            opened[0].summary["model"] = event["result"]["model"]

    try:
        yield log
    except BaseException:
        for each in opened:
            each.finish(exit_code=1)
        raise
    for each in opened:
        each.finish()
