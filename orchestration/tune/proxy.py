"""The real objective: a proposal's sequences generated, learned and carried over, scored on the target at equal budget.

The proxy's budget is a number of tokens. The proposal's share of them is synthetic: generated, pre-pre-trained on, held
against the gate; the weights go into a language run over the rest. All runs are named by their configuration, so a
proposal that was scored before is not scored again, and one that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datalake import DatasetVersion, Lake, shard_layout
from generator import GenerationSpec, check_acceptance
from generator.errors import GeneratorError
from orchestration.errors import JobStopped
from orchestration.generation.local import each_result
from orchestration.generation.worker import ShardWorker, plan_dataset, stored
from orchestration.runs.names import default_run_name
from orchestration.runs.signals import Stop
from orchestration.training.local import train_when_free
from orchestration.training.stop_watcher import Parent, following
from orchestration.tune.settings import TuneSettings
from orchestration.tune.space import Values, spec_at
from trainer import TrainConfig, TrainJob, TrainResult, parse_config
from trainer.errors import TrainerError

SHARD_SEQUENCES = 1024

RUNG = "at its rung"
"""Why a proxy's run stops and waits to be told whether it goes on."""


@dataclass(frozen=True)
class ProxyJob:
    """What all proposals of a tuning have in common; ``base`` is the incumbent's spec, ``length`` the target's rows,
    ``parent`` the tuning's own run, with which they stop."""

    base: dict[str, Any]
    train: str
    heldout: str
    length: int
    share: float
    settings: TuneSettings
    parent: Parent | None = None


@dataclass(frozen=True)
class Progress:
    """Where a proposal stands: ``spent`` of its budget (0 to 1) and the loss there, or why it was refused."""

    spent: float
    loss: float | None
    refused: str | None
    seconds: dict[str, float]

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.refused is not None or self.spent >= 1


class Proxy:
    """One proposal (None: the incumbent) at one seed, advanced from rung to rung; a share of 0 is language alone."""

    def __init__(
        self,
        lake: Lake,
        job: ProxyJob,
        values: Mapping[str, int | float] | None,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lake, self._job, self._seed, self._clock = lake, job, seed, clock
        self._values: Values = dict(values or {})
        self._share = float(self._values.get("share", job.share))
        self._seconds: dict[str, float] = {}
        self._began = clock()
        self._language: TrainConfig | None = None
        self._rung = 0

    def advance(self) -> Progress:
        """Go on to the next rung of the language run, the stages before it first."""
        if self._language is None:
            refused = self._prepare()
            if refused is not None:
                return self._progress(0.0, None, refused)
        assert self._language is not None
        self._rung += 1
        began = self._clock()
        try:
            loss, step = self._train_to(self._language, self._rung)
        except TrainerError as error:
            return self._progress(0.0, None, f"{type(error).__name__}: {error}")
        self._seconds["language"] = self._seconds.get("language", 0.0) + self._clock() - began
        steps = self._language.steps
        return self._progress(1.0 if step >= steps else self._share + (1 - self._share) * step / steps, loss, None)

    def finish(self) -> Progress:
        """Advance to the end."""
        while not (progress := self.advance()).done:
            pass
        return progress

    def _prepare(self) -> str | None:
        """Generate, pre-pre-train, check the gate, and set the language run; returns why the proposal is refused."""
        began = self._clock()
        settings = self._job.settings
        batch = settings.train["batch_sequences"]
        if self._share == 0:
            self._language = self._language_config(None)
            return None
        try:
            spec = spec_at(self._job.base, self._values)
            check_acceptance(spec, least=settings.min_acceptance)
            budget = settings.train["steps"] * batch * self._job.length
            steps = max(1, round(self._share * budget / (batch * spec.seq_len)))
            stop = Stop()
            with following(self._lake, self._job.parent, stop):
                data = generate_for_proxy(self._lake, spec, 0, steps * batch, settings.threads, stop)
                gate = generate_for_proxy(self._lake, spec, 1, settings.gate_sequences, settings.threads, stop)
        except GeneratorError as error:
            return f"{type(error).__name__}: {error}"
        self._seconds["generate"] = self._clock() - began
        began = self._clock()
        first = self._config(steps, data.ref, gate.ref, settings.gate_sequences, eval_every=steps)
        name = default_run_name("proxy-pre", first)
        first = first.model_copy(update={"publish": name})
        try:
            learned = self._train(first, name, Stop())
        except TrainerError as error:
            return f"{type(error).__name__}: {error}"
        self._seconds["pre"] = self._clock() - began
        (scores,) = learned.evals.values()
        if not scores["gate"]["passed"]:
            found = scores["gate"]
            return f"gate: synthetic loss {found['loss']:.3f} is not under the unigram entropy {found['entropy']:.3f}"
        self._language = self._language_config({"source": learned.model, "what": settings.what})
        return None

    def _language_config(self, transfer: dict[str, Any] | None) -> TrainConfig:
        """The run over what is left of the budget."""
        settings = self._job.settings
        left = max(1, round((1 - self._share) * settings.train["steps"]))
        return self._config(
            left,
            self._job.train,
            self._job.heldout,
            settings.train.get("eval_sequences", 256),
            eval_every=-(-left // settings.rungs),
            transfer=transfer,
        )

    def _train_to(self, config: TrainConfig, rung: int) -> tuple[float, int]:
        """The held-out loss at a rung, and its step."""
        stop, seen = Stop(), (0.0, 0)
        goal = min(rung * config.eval_every, config.steps)

        def watch(event: dict[str, Any]) -> None:
            nonlocal seen
            if event["event"] == "eval":
                seen = (event["loss"], event["step"])
                if event["step"] >= goal and event["step"] < config.steps:
                    stop.ask(RUNG)

        try:
            result = self._train(config, default_run_name("proxy", config), stop, watch)
        except JobStopped:
            if stop.reason != RUNG:
                raise
            return seen
        (scores,) = result.evals.values()
        return scores["loss"], result.step

    def _train(
        self, config: TrainConfig, run: str, stop: Stop, watch: Callable[[dict[str, Any]], None] | None = None
    ) -> TrainResult:
        """The run's result; JobStopped at a rung, and where the tuning itself is stopped."""
        with following(self._lake, self._job.parent, stop):
            training = TrainJob(config, self._lake, run)
            return train_when_free(training, stop=stop, threads=self._job.settings.threads, on_event=watch)

    def _config(
        self, steps: int, data: str, heldout: str, sequences: int, *, eval_every: int, transfer: Any = None
    ) -> TrainConfig:
        table = dict(self._job.settings.train)
        schedule = dict(table.get("schedule", {}))
        schedule["warmup_steps"] = min(schedule.get("warmup_steps", 0), steps // 4)
        fixed = {
            "model": self._job.settings.model,
            "data": [{"dataset": data}],
            "eval": [heldout],
            "eval_sequences": min(sequences, self._lake.datasets.get(heldout).sequences),
            "steps": steps,
            "seed": self._seed,
            "schedule": schedule,
            "transfer": transfer,
            "eval_every": eval_every,
            "checkpoint_every": steps,
            "keep_last": 1,
        }
        return parse_config(table | fixed)

    def _progress(self, spent: float, loss: float | None, refused: str | None) -> Progress:
        self._seconds["total"] = self._clock() - self._began
        return Progress(spent, loss, refused, {stage: round(value, 2) for stage, value in self._seconds.items()})


def generate_for_proxy(
    lake: Lake, spec: GenerationSpec, seed: int, sequences: int, threads: int, stop: Stop
) -> DatasetVersion:
    """A dataset made in this process, whose kernels stay warm: a proxy's is too small to be worth a pool.

    Raises JobStopped once ``stop`` is set: a band that accepts little makes shards slow.
    """
    planned = plan_dataset(spec, seed, sequences, SHARD_SEQUENCES)
    worker = ShardWorker(lake, planned.source, "auto", threads)
    name = f"{spec.family}-{spec.digest[:12]}-s{seed}"
    made = each_result(
        lambda shard: worker.make(*shard),
        shard_layout(sequences, SHARD_SEQUENCES),
        1,
        lambda: stop.check(f" while {name} was made"),
    )
    manifest = stored(planned, [shard for _, shard in made])
    return lake.datasets.commit(name, manifest, message="for a proxy")


def score_in_full(
    lake: Lake, job: ProxyJob, values: Mapping[str, int | float] | None, seed: int
) -> tuple[float | None, str | None]:
    """Loss at the full budget, or None and why there is none: what confirmation asks of each seed."""
    progress = Proxy(lake, job, values, seed).finish()
    return progress.loss, progress.refused
