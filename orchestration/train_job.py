"""Training under Ray Train: the trainer's own step loop in each DDP worker, fed by Ray Data.

The lake's run record is what survives: Ray's checkpoints are not used, since a report is no durable commit. A worker's
death ends one attempt; the next begins at the newest checkpoint that verifies.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.exceptions import RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from datalake import DamagePolicy, Lake
from datalake.errors import DatalakeError, NotFoundError
from generator.errors import GeneratorError
from orchestration.errors import InvalidRequestError, OrchestrationError, TrainingFailedError
from orchestration.heal import caretaker
from orchestration.live_stream import LiveStream
from orchestration.ray_session import local_cores
from orchestration.stream import ray_data_batches
from trainer import TrainConfig, TrainResult, run_training
from trainer.errors import TrainerError

ATTEMPTS = 4
POLL_S = 0.5

OnEvent = Callable[[dict[str, Any]], None]


class Teller:
    """Sends events to the board from whatever process it travels to."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self, event: dict[str, Any]) -> None:
        self._board.push.remote(event)


class EventBoard:
    """Carries the workers' events to the driver, which shows them, and the first named error, which it raises."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._error: Exception | None = None
        self._result: TrainResult | None = None

    def push(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    def drain(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def finish(self, result: TrainResult) -> None:
        self._result = result

    def outcome(self) -> tuple[TrainResult | None, Exception | None]:
        return self._result, self._error


def _worker(job: dict[str, Any]) -> None:
    """One rank. A named error is the user's to mend: it goes to the board before the worker dies of it."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    board, live = job["board"], job["live"]
    care = caretaker(job["damage"], Teller(board))
    lake = care.open(job["lake_uri"])
    config = TrainConfig.model_validate(job["config"])
    try:
        result = run_training(
            config,
            lake,
            job["run"],
            batches_factory=live.batches if live else ray_data_batches,
            promised=live,
            rank=rank,
            world=world,
            threads=max(1, local_cores() // context.get_local_world_size()),
            on_event=Teller(board) if rank == 0 else None,
            care=care,
        )
    except Exception as error:
        named = _named(error)
        if named is not None:
            ray.get(board.fail.remote(named))
        raise
    if rank == 0:
        ray.get(board.finish.remote(result))


def _named(error: Exception) -> Exception | None:
    """Our own error inside what Ray made of it, its message one line again; None for others."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(cause, DatalakeError | GeneratorError | TrainerError | OrchestrationError):
        return None
    cause.args = (str(cause).splitlines()[0], *cause.args[1:])
    return cause


def train_on_ray(
    lake: Lake,
    config: TrainConfig,
    run: str,
    *,
    workers: int = 2,
    use_gpu: bool = False,
    on_event: OnEvent | None = None,
    damage: DamagePolicy | None = None,
    live: LiveStream | None = None,
) -> TrainResult:
    """Run (or resume, or return the finished) training `run` on `workers` DDP workers. Ray must be initialised.

    `damage` says what a lost shard or an absent store leads to; it is the job's, no part of what names the run. With
    `live`, one of the datasets is being made meanwhile, and batches come from its stream.

    Raises the worker's own named error if it had one, TrainingFailedError after ATTEMPTS deaths of workers.
    """
    if workers < 1 or config.batch_sequences % workers:
        raise InvalidRequestError(
            f"workers = {workers}: batch_sequences = {config.batch_sequences} is not a multiple of it; "
            "use a number of workers that divides the global batch"
        )
    recorded = finished_result(lake, config, run)
    if recorded is not None:
        return recorded
    lake.check_writable()
    board: Any = ray.remote(num_cpus=0)(EventBoard).remote()
    job = {
        "lake_uri": lake.store.uri,
        "config": config.model_dump(mode="json"),
        "run": run,
        "board": board,
        "damage": damage or DamagePolicy(),
        "live": live,
    }
    with _pump(board, on_event or (lambda _event: None)):
        failure: Exception | None = None
        for attempt in range(1, ATTEMPTS + 1):
            failure = _attempt(job, workers, use_gpu)
            result, error = ray.get(board.outcome.remote())
            if result is not None:
                return result
            if error is not None:
                raise error from failure
            if on_event is not None:
                on_event({"event": "worker_lost", "attempt": attempt, "reason": type(failure).__name__})
    raise TrainingFailedError(
        f"run {run}: its workers died in {ATTEMPTS} attempts, the last of {_last_line(failure)!r}; "
        "what was checkpointed is kept: run the same command again to go on"
    )


def finished_result(lake: Lake, config: TrainConfig, run: str) -> TrainResult | None:
    """The result of `run` if it has finished with this config: found here, it costs no start of workers."""
    try:
        state = lake.runs.get(run).state
    except NotFoundError:
        return None
    if state["status"] != "finished" or state["config"] != config.model_dump(mode="json"):
        return None
    return TrainResult.from_record(state["result"])


def _attempt(job: dict[str, Any], workers: int, use_gpu: bool) -> Exception | None:
    """One worker group from start to end; returns what ended it, None if it finished."""
    with tempfile.TemporaryDirectory(prefix="morphogen-ray-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            # Attempts are counted here and not by Ray, which would also repeat the user's own mistakes.
            run_config=RunConfig(name=job["run"], storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            return error
    return None


def _last_line(failure: Exception | None) -> str:
    """The end of Ray's account of a failure: below its own frames stands what went wrong."""
    lines = str(failure).strip().splitlines()
    return lines[-1].strip() if lines else type(failure).__name__


class _pump:
    """Shows the board's events while the workers run."""

    def __init__(self, board: Any, on_event: OnEvent) -> None:
        self._board, self._on_event = board, on_event
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="training events", daemon=True)

    def _run(self) -> None:
        while not self._done.wait(POLL_S):
            self._drain()

    def _drain(self) -> None:
        for event in ray.get(self._board.drain.remote()):
            self._on_event(event)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()
        if exception[0] is None:
            self._drain()
