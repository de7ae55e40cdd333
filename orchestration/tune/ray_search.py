"""Search on Ray Tune: Optuna proposes, trials run on warm actors, ASHA stops those that lag at a rung.

What is recorded in the lake, and not Ray Tune's own experiment folder, is what a killed search resumes from: trials
that ended are told to the searcher as they were, and those under way find their runs where they stopped.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from datalake import Lake
from orchestration.cluster.head import check_cluster
from orchestration.cluster.pool import POLL_S
from orchestration.cluster.resources import Demand
from orchestration.cluster.session import compute_cores
from orchestration.console.progress import console
from orchestration.runs.lease import RunLease
from orchestration.tune.ask_tell import STARTUP_TRIALS
from orchestration.tune.proxy import Progress, Proxy, ProxyJob
from orchestration.tune.space import Dimension, rounded
from orchestration.tune.tuning import Search, Trial

WHOLE = 100
"""A trial's budget in the scheduler's units."""

REDUCTION = 3

Start = Callable[[Mapping[str, int | float]], Any]
"""``start(values)``: an object whose ``advance()`` gives the ``Progress`` at the next rung."""


class ProxyStart:
    """Starts proxies of one job; a value, so that it travels to the actors."""

    def __init__(self, lake: Lake, job: ProxyJob) -> None:
        self._lake, self._job = lake, job

    def __call__(self, values: Mapping[str, int | float]) -> Proxy:
        return Proxy(self._lake, self._job, values, self._job.settings.seed)


class RungTrainable(tune.Trainable):
    """One trial after another in one process: a step is a rung."""

    def setup(self, config: dict[str, Any], start: Start | None = None, penalty: float = 0.0) -> None:
        if start is not None:
            self._start, self._penalty = start, penalty
        self._attempt = self._start(rounded(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: what a trial has done is in the lake."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, likewise."""

    def step(self) -> dict[str, Any]:
        progress: Progress = self._attempt.advance()
        return {
            # A refused proposal scores worse than a model that knows nothing, which keeps the searcher away from it.
            "loss": self._penalty if progress.loss is None else progress.loss,
            "spent": WHOLE if progress.done else max(1, math.floor(WHOLE * progress.spent)),
            "refused": progress.refused or "",
            "latency": progress.seconds,
            "done": progress.done,
        }


class _Recorder(tune.Callback):
    """Tells of each trial that ends; Ray Tune also writes callbacks down, for a restart that is never asked of it."""

    def __init__(self, tell: Callable[[Trial], None]) -> None:
        self._tell = tell

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        last = trial.last_result or {}
        if "loss" not in last:
            return
        whole = last["spent"] >= WHOLE and not last["refused"]
        self._tell(
            Trial(
                values=rounded(trial.config),
                loss=last["loss"] if whole else None,
                spent=1.0 if whole else last["spent"] / WHOLE,
                refused=last["refused"] or None,
                seconds=dict(last["latency"]),
            )
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        lines = str(trial.get_error() or "").strip().splitlines() or ["unknown"]
        point = ", ".join(f"{name} {value:g}" for name, value in rounded(trial.config).items())
        console.print(f"  a trial failed ({point}): {lines[-1].strip()}", markup=False)


class _StopWithJob(tune.Stopper):
    """Ends the search once the tuning is asked to stop; Ray Tune writes stoppers down as it does callbacks."""

    def __init__(self, run_lease: RunLease) -> None:
        self._run_lease = run_lease

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._run_lease.stop.is_set()


def demand_of_trial(threads: int) -> Demand:
    """What one trial needs. Ray must be initialised."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return Demand(
        f"threads = {threads}",
        ({"CPU": float(threads), "GPU": 1.0 if gpus else 0.0},),
        "lower threads in the settings, or join a cluster with such a node",
    )


def ray_search(
    space: Mapping[str, Dimension],
    start: Start,
    *,
    trials: int,
    seed: int,
    threads: int = 1,
    penalty: float = 20.0,
    run_lease: RunLease | None = None,
) -> Search:
    """Search as ``tune`` wants it, `trials` in all; ``penalty`` is a refused proposal's loss. Ray must be running.

    ``run_lease`` is the tuning's run: once it is asked to stop, trials end with their checkpoints, and
    JobStopped is raised.
    """

    def search(known: Sequence[Trial], tell: Callable[[Trial], None]) -> None:
        # Ray Tune's newer tables go to standard output whatever `verbose` says, and that is for results.
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        left = trials - len(known)
        if left <= 0:
            return
        gpus = int(ray.cluster_resources().get("GPU", 0))
        slots = gpus or max(1, compute_cores() // threads)
        scored = [trial for trial in known if trial.loss is not None]
        searcher = OptunaSearch(
            {name: dimension.distribution() for name, dimension in space.items()},
            metric="loss",
            mode="min",
            sampler=_sampler(seed + len(known)),
            points_to_evaluate=[dict(trial.values) for trial in scored] or None,
            evaluated_rewards=[trial.loss for trial in scored] or None,
        )
        trainable = tune.with_resources(
            tune.with_parameters(RungTrainable, start=start, penalty=penalty),
            {"cpu": threads, "gpu": 1 if gpus else 0},
        )
        with tempfile.TemporaryDirectory(prefix="morphogen-ray-tune-", ignore_cleanup_errors=True) as scratch:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=ConcurrencyLimiter(searcher, max_concurrent=slots),
                    scheduler=ASHAScheduler(
                        time_attr="spent",
                        metric="loss",
                        mode="min",
                        max_t=WHOLE,
                        grace_period=1,
                        reduction_factor=REDUCTION,
                    ),
                    num_samples=left,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_Recorder(tell)],
                    stop=None if run_lease is None else _StopWithJob(run_lease),
                    failure_config=tune.FailureConfig(max_failures=2),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            if run_lease is None:
                tuner.fit()
            else:
                _fit(tuner, run_lease)

    return search


def _fit(tuner: tune.Tuner, run_lease: RunLease) -> None:
    """``fit`` beside the main thread, which stays free for signals: Ray Tune handles SIGINT its own way."""
    with ThreadPoolExecutor(1, thread_name_prefix="search") as beside:
        fitting, asked = beside.submit(tuner.fit), False
        while not fitting.done():
            wait([fitting], timeout=POLL_S)
            run_lease.check()
            check_cluster()
            if run_lease.stop.is_set() and not asked:
                asked = True
                run_lease.ask_workers()  # trials look into its log, and end with a checkpoint
        if run_lease.stop.is_set():
            raise run_lease.stop.error(run_lease.run.name, "keeps the trials that ended")
        fitting.result()


def _sampler(seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
