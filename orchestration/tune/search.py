"""Search: Optuna proposes, trials run on warm actors, and those that lag at a rung are stopped.

What is recorded in the lake, and no study of Optuna's, is what a killed search resumes from: trials that ended are told
to the searcher as they were, and those under way find their runs where they stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from datalake import Lake
from orchestration.console.progress import console
from orchestration.errors import JobStopped
from orchestration.experiment.run.pool import ArmWorker, Pool
from orchestration.runs.lease import RunLease
from orchestration.tune.proxy import Progress, Proxy, ProxyJob
from orchestration.tune.space import Dimension, Values, rounded
from orchestration.tune.tuning import Search, Trial

STARTUP_TRIALS = 10
REDUCTION = 3

Start = Callable[[Mapping[str, int | float]], Any]
"""``start(values)``: an object whose ``advance()`` gives the ``Progress`` at the next rung."""


class ProxyStart:
    """Starts proxies of one job; a value, so that it travels to the actors."""

    def __init__(self, lake: Lake, job: ProxyJob) -> None:
        self._lake, self._job = lake, job

    def __call__(self, values: Mapping[str, int | float]) -> Proxy:
        return Proxy(self._lake, self._job, values, self._job.settings.seed)


class Proposals:
    """Points of ``space`` to try, by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), `left` of them.

    A trial whose loss at its first, third, ninth … rung is not in the best third there is stopped: asynchronous
    successive halving (Li et al. 2020). ``penalty`` is a refused proposal's loss: worse than a model that knows
    nothing, so that the searcher keeps away from it.
    """

    def __init__(
        self, space: Mapping[str, Dimension], known: Sequence[Trial], *, trials: int, seed: int, penalty: float = 20.0
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.left = trials - len(known)
        self._penalty = penalty
        self._distributions = {name: dimension.distribution() for name, dimension in space.items()}
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed + len(known), n_startup_trials=STARTUP_TRIALS),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
        )
        for trial in known:
            if trial.loss is not None:
                self._study.add_trial(
                    create_trial(params=trial.values, distributions=self._distributions, value=trial.loss)
                )
        self._asked: dict[int, optuna.Trial] = {}
        self._rungs: dict[int, int] = {}

    def ask(self) -> int:
        """The number of a new trial."""
        self.left -= 1
        trial = self._study.ask(self._distributions)
        self._asked[trial.number], self._rungs[trial.number] = trial, 0
        return trial.number

    def values(self, number: int) -> Values:
        """The point that a trial tries."""
        return rounded(self._asked[number].params)

    def tell(self, number: int, progress: Progress) -> Trial | None:
        """Note where a trial stands; what it came to if it is over, None if it is to go on."""
        asked = self._asked[number]
        self._rungs[number] += 1
        over, loss = progress.done, progress.loss
        if loss is None:
            self._study.tell(asked, self._penalty)
        elif over:
            self._study.tell(asked, loss)
        else:
            asked.report(loss, self._rungs[number])
            if not asked.should_prune():
                return None
            self._study.tell(asked, state=TrialState.PRUNED)
        return Trial(
            values=self.values(number),
            loss=loss if over else None,
            spent=progress.spent,
            refused=progress.refused,
            seconds=dict(progress.seconds),
        )

    def fail(self, number: int) -> None:
        """Note that a trial broke: nothing is known of its point."""
        self._study.tell(self._asked[number], state=TrialState.FAIL)


class TrialWorker(ArmWorker):
    """Advances one trial after another; one that it advanced last goes on where it is."""

    _number = -1
    _attempt: Any = None

    def advance(self, start: Start, number: int, values: Values) -> Progress:
        """The next rung of trial `number`, which another actor may have begun: what it did is in the lake."""
        if number != self._number:
            self._number, self._attempt = number, start(values)
        progress: Progress = self._attempt.advance()
        return progress


class _Trials:
    """Rungs of trials as tasks of the pool. One that goes on is next, so that it meets the actor that is free: its
    own."""

    def __init__(self, proposals: Proposals, start: Start, tell: Callable[[Trial], None]) -> None:
        self._proposals, self._start, self._tell = proposals, start, tell
        self._going_on: list[int] = []

    def waiting(self) -> int:
        return len(self._going_on) + max(0, self._proposals.left)

    def next(self) -> int:
        return self._going_on.pop() if self._going_on else self._proposals.ask()

    def start(self, actor: Any, task: int) -> Any:
        return actor.advance.options(name="trial").remote(self._start, task, self._proposals.values(task))

    def facts(self, task: int) -> dict[str, Any]:
        return {"trial": task}

    def done(self, task: int, result: Progress) -> None:
        found = self._proposals.tell(task, result)
        if found is None:
            self._going_on.append(task)
        else:
            self._tell(found)

    def failed(self, task: int, error: Exception) -> None:
        values = self._proposals.values(task)
        self._proposals.fail(task)
        if not isinstance(error, JobStopped):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            point = ", ".join(f"{name} {value:g}" for name, value in values.items())
            console.print(f"  a trial failed ({point}): {reason}", markup=False)

    def poll(self) -> None:
        """Nothing is waited for but the trials themselves."""

    def drop(self) -> None:
        """Begin nothing more."""
        self._proposals.left = 0
        self._going_on.clear()


def pool_search(
    lake: Lake,
    space: Mapping[str, Dimension],
    start: Start,
    *,
    trials: int,
    seed: int,
    threads: int = 1,
    penalty: float = 20.0,
    run_lease: RunLease | None = None,
) -> Search:
    """Search as ``tune`` wants it, `trials` in all, with ``Proposals`` (``penalty``) on actors of ``threads``.

    Ray must be running. ``run_lease`` is the tuning's run: once it is asked to stop, trials end with their checkpoints,
    and JobStopped is raised.
    """

    def search(known: Sequence[Trial], tell: Callable[[Trial], None]) -> None:
        proposals = Proposals(space, known, trials=trials, seed=seed, penalty=penalty)
        if proposals.left > 0:
            with Pool(lake, threads, run_lease=run_lease, worker=TrialWorker) as pool:
                pool.work(_Trials(proposals, start, tell))

    return search
