"""When to stop: a loss that is no number, or one that leaps away from what it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trainer.errors import DivergedError

REMEMBERED = 0.95
FIRST_STEPS = 20
ADVICE = "lower optimizer.lr, raise schedule.warmup_steps or set optimizer.grad_clip"


class LossGuard:
    """Compares each loss with the mean of those before it, older ones fading by ``REMEMBERED`` a step.

    Nothing is compared until ``FIRST_STEPS`` losses are known. ``forget`` starts anew where the data changes, since the
    loss of another mixture is another quantity. ``state`` goes into the checkpoint: a resumed run judges alike.
    """

    def __init__(self, spike_nats: float | None) -> None:
        self._limit = math.inf if spike_nats is None else spike_nats
        self._mean, self._seen = 0.0, 0

    def check(self, step: int, loss: float, grad_norm: float, kept: Callable[[], int]) -> None:
        """DivergedError if update ``step`` must not be made; ``kept`` gives the step of the last good checkpoint."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"step {step}: loss = {loss}, gradient norm = {grad_norm}; the checkpoint at step {kept()} is kept; "
                f"{ADVICE}"
            )
        if self._seen >= FIRST_STEPS and loss > self._mean + self._limit:
            raise DivergedError(
                f"step {step}: loss = {loss:.4f} is more than spike_nats = {self._limit} above its recent mean "
                f"{self._mean:.4f}; the checkpoint at step {kept()} is kept; {ADVICE}, or raise spike_nats"
            )
        self._seen += 1
        # At first the plain mean: a fading one would still remember its start at 0.
        self._mean += (loss - self._mean) * max(1.0 / self._seen, 1.0 - REMEMBERED)

    def forget(self) -> None:
        """Begin anew."""
        self._mean, self._seen = 0.0, 0

    @property
    def state(self) -> dict[str, Any]:
        return {"mean": self._mean, "seen": self._seen}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._mean, self._seen = state["mean"], state["seen"]
