"""What training a language model changes, and one update of it: weights, optimiser, running average, loss guard."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from datalake import Lake
from trainer import checkpoint
from trainer.accumulate import accumulate
from trainer.average import Average
from trainer.data import Batch, check_batch
from trainer.documents import DocumentNumbers
from trainer.ensemble import Ensemble
from trainer.epochs import repeats_from, schedule_in_steps
from trainer.errors import ConfigError
from trainer.evaluate import evaluate
from trainer.guard import LossGuard
from trainer.hardware import flops_per_token, mean_flops_per_token, peak_flops
from trainer.hf_layout import load_pieces
from trainer.init import init_weights
from trainer.inputs import Inputs
from trainer.job import TrainJob
from trainer.mask import dataset_mask, least_role
from trainer.mask_check import eval_mask
from trainer.metrics import Interval, Record
from trainer.model import Llama, count_parameters
from trainer.optim import Optimizer
from trainer.parallel import clip_gradients, over_ranks, place_model
from trainer.planned import wait_for_commit
from trainer.precision import Precision, resolve_precision, seed_step
from trainer.publish import publish
from trainer.published import Weights
from trainer.ranks import Ranks
from trainer.rates import learning_rate, rates_at
from trainer.recipe import TasksConfig
from trainer.target_masks import TargetMasks
from trainer.task_scores import PREFIX
from trainer.tensor_files import FileLimit
from trainer.transfer import transfer

Evals = dict[str, Any]


def check_tasks(job: TrainJob, inputs: Inputs, ranks: Ranks) -> None:
    """ConfigError where the config's tasks cannot be scored, and what the job's scorer raises of them."""
    if (tasks := job.config.tasks) is None:
        return
    if (score := job.score_tasks) is None:
        raise ConfigError("tasks: nothing here scores any; train with `morphogen train`, or leave [tasks] out")
    if job.parallel == "fsdp" and ranks.world > 1:
        raise ConfigError("tasks: one rank asks the whole model, and with parallel = 'fsdp' none has it; use 'ddp'")
    ranks.from_zero(lambda: score.check(tasks, inputs))


class TextLearner:
    """The state of one rank that trains ``job`` on ``inputs``; see ``trainer.loop.Learner``.

    Raises TransferError, and what the lake raises where the weights to begin with cannot be read.
    """

    def __init__(self, job: TrainJob, lake: Lake, inputs: Inputs, ranks: Ranks) -> None:
        sequences = inputs.train[0].manifest.sequences
        config = job.config.model_copy(update={"schedule": schedule_in_steps(job.config, sequences)})
        self._job, self._lake = job, lake
        self._config, self._inputs, self._ranks, self._parallel = config, inputs, ranks, job.parallel
        self._shape = config.model.shape(inputs.vocab_size)
        shape, own = self._shape, config.model
        self._repeats_from = repeats_from(config, sequences)
        self.model = Llama(shape, None, dropout=own.dropout, recompute=own.recompute, empty=True)
        place_model(self.model, job.parallel, ranks, config.model.compile)
        self._moved = self._first_weights(lake)
        anchors = {}
        if config.transfer is not None and config.transfer.decay_toward == "source":
            moved = set(self._moved)
            anchors = {name: weight.detach().clone() for name, weight in self.model.named_parameters() if name in moved}
        self.optimizer = Optimizer(self.model, config.optimizer, self._moved, anchors)
        self.average = Average(self.model, config.average)
        self._guard = LossGuard(config.spike_nats)
        train_ends, self._eval_ends = inputs.document_ends(config)
        self._documents = None if train_ends is None else DocumentNumbers(train_ends, ranks.device)
        masked = [(item.manifest, mask) for item, mask in zip(inputs.train, config.masks, strict=True)]
        self._masks = TargetMasks(
            inputs.plan,
            [dataset_mask(*each) for each in masked],
            ranks.device,
            [least_role(*each) for each in masked],
        )
        self._counted = (-1, 0)  # (step, predictions that count in its global batch)
        self._max_norm = config.optimizer.grad_clip or math.inf
        # At these steps the loss may leap for a reason: another mixture, or layers that begin to repeat.
        self._changes = {step for step, _ in inputs.plan.schedule} | ({self._repeats_from} - {0})
        self._batch_tokens = config.batch_sequences * (inputs.seq_len - 1)
        self._peak = peak_flops(ranks.device)
        self._precision: Precision = "fp32"
        self._done = 0

    def _first_weights(self, lake: Lake) -> list[str]:
        """Draw or read the weights that the config begins with; returns the names of those that were transferred."""
        config, inputs = self._config, self._inputs
        if inputs.init is not None:
            load_pieces(self.model, Weights(lake, inputs.init).pieces(dict(self.model.named_parameters()).get))
            return []
        init_weights(self.model, self._shape, config.seed)
        if config.transfer is not None and inputs.source is not None:
            weights = Weights(lake, inputs.source)
            return transfer(self.model, weights.shapes(), weights, config.transfer.what, config.seed)
        return []

    @property
    def evaluates(self) -> bool:
        """Whether there are held-out datasets, or tasks."""
        return bool(self._inputs.eval or self._config.tasks)

    def begin(self, files: Mapping[str, bytes] | None) -> tuple[int, Evals]:
        """Load a checkpoint's files (None: a new run); returns the steps done and their last evaluations."""
        self._precision = self._ranks.from_zero(lambda: resolve_precision(self._config.precision, self._ranks.device))
        step, evals = 0, Evals()
        if files is not None:
            state = checkpoint.unpack(files, self.model, self.optimizer, self.average)
            step, evals, self._precision = state["step"], state["evals"], state["precision"]
            self._guard.load(state["guard"])
        self._done = step
        self._repeat_at(max(0, step - 1))
        self._forward = over_ranks(self.model, self._ranks, self._precision)
        return step, evals

    def _repeat_at(self, step: int) -> None:
        """Let the model be what update ``step`` trains; evaluations after it are of the same."""
        self.model.model.repeating = step >= self._repeats_from

    def _flops(self, step: int) -> int:
        """What a token costs in update ``step``."""
        return flops_per_token(self._shape, self._inputs.seq_len - 1, repeating=step >= self._repeats_from)

    def facts(self) -> dict[str, Any]:
        """What a run's result says of its model, its groups of parameters, its precision and its cost."""
        return {
            "parameters": count_parameters(self.model),
            "shape": self._shape.model_dump(),
            "groups": self.optimizer.describe(),
            "moved": self._moved,
            "precision": self._precision,
            "world": self._ranks.world,
            "parallel": self._parallel if self._ranks.world > 1 else None,
            "batch_tokens": self._batch_tokens,
            "flops_per_token": mean_flops_per_token(
                self._shape, self._inputs.seq_len - 1, self._repeats_from / self._config.steps
            ),
        }

    def warnings(self) -> list[str]:
        """None: what cannot be is refused."""
        return []

    def batches(self, start: int) -> Iterator[Batch]:
        """The plan's rows of this rank, from step ``start`` on, by the job's batches factory."""
        steps, ranks = self._config.steps, self._ranks
        return self._job.batches(self._inputs.plan, start, steps, ranks.world, ranks.rank, self._inputs.train)

    def gradients(self, step: int, batch: Batch) -> tuple[float, float]:
        """Compute the global gradient of step ``step``; returns this rank's sum of nats, and the gradient's norm.

        PlanMismatchError if the batch is not what the plan says.
        """
        config, ranks = self._config, self._ranks
        tokens_BT = check_batch(batch, self._inputs.plan, step, ranks.world, ranks.rank).to(ranks.device)
        seed_step(config.seed, step, ranks.rank)
        self._repeat_at(step)
        self.optimizer.set_rates(rates_at(config, self.optimizer.groups, step))
        weights_BT = self._masks.of(batch.rows, batch.roles)
        self._counted = (step, self._masks.count_over(step, batch.rows, batch.roles, ranks))
        scale = ranks.world / self._counted[1]  # gradients are averaged over ranks, hence the factor
        documents_BT = None if self._documents is None else self._documents.of(tokens_BT, batch.rows)
        batch_BT = (tokens_BT, weights_BT)
        nats = accumulate(self._forward, *batch_BT, config.micro_batches, scale, self._precision, documents_BT)
        self.optimizer.drop_frozen()
        norm = clip_gradients(self.model, self._max_norm)
        return float(nats), norm

    def loss(self, step: int, nats: float) -> float:
        """The loss of step ``step``, in nats per token that counts, from the sum of all ranks' nats."""
        counted_at, counted = self._counted
        return nats / (counted if counted_at == step else self._masks.count(step))

    def update(self, step: int, loss: float, grad_norm: float, kept: Callable[[], int]) -> None:
        """Apply the gradient of step ``step``. DivergedError if the guard refuses its loss; ``kept`` is asked then."""
        if step in self._changes:
            self._guard.forget()
        self._guard.check(step + 1, loss, grad_norm, kept)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._done = step + 1
        self.average.update(self._done, self._config.horizon)

    def row(self, done: int, loss: float, grad_norm: float, interval: Interval) -> Record:
        """The metrics record after ``done`` steps; ``interval`` starts anew."""
        rate = learning_rate(self._config, done - 1)
        row = {"step": done, "loss": loss, "lr": rate, "grad_norm": grad_norm, "tokens": done * self._batch_tokens}
        row |= interval.rates(self._batch_tokens)
        if self._peak is not None:
            row["mfu"] = row["tokens_per_s"] * self._flops(done - 1) / (self._peak * self._ranks.world)
        return row

    def evaluate(self) -> Evals:
        """What ``trainer.evaluate`` says of each held-out dataset, and the scores of each task, with the averaged
        weights where there are any.

        At the run's end ``ensemble`` among it is what it says of the last checkpoints together, if that is asked for.
        """
        config, ranks = self._config, self._ranks
        how = (config.eval_sequences, self._precision, ranks.device, ranks)
        datasets = [
            (held, eval_mask(config, held.manifest), end)
            for held, end in zip(self._inputs.eval, self._eval_ends, strict=True)
        ]
        with self.average.swapped_in():
            evals = {held.ref: evaluate(self.model, held, *how, mask, end) for held, mask, end in datasets}
            if config.tasks is not None:
                evals |= self._task_scores(config.tasks)
        if config.ensemble is not None and self._done == config.steps:
            members = (config.ensemble, self._lake, self._job.run, config.ensemble_steps, ranks)
            ensemble = Ensemble.of_run(self.model, *members)
            for held, mask, end in datasets:
                found = evaluate(self.model, held, *how, mask, end, ensemble)
                evals[held.ref]["ensemble"] = {"steps": config.ensemble_steps, **found}
        return evals

    def _task_scores(self, tasks: TasksConfig) -> Evals:
        """Rank 0 asks; the others wait, on a group that waits for longer than one that works should."""
        score = self._job.score_tasks
        assert score is not None, "held by check_tasks"
        with self._ranks.apart() as apart:
            given = (self.model, tasks, self._inputs, self._precision, self._ranks.device)
            found = apart.from_zero(lambda: score(*given))
        return {f"{PREFIX}{name}": values for name, values in found.items()}

    def snapshot(self, done: int, evals: Evals) -> Callable[[], checkpoint.Snapshot]:
        """What takes this rank's part of a checkpoint after ``done`` steps."""
        state = {"step": done, "evals": evals, "precision": self._precision, "plan": self._inputs.plan.digest}
        state["guard"] = self._guard.state
        return partial(checkpoint.snapshot, self.model, self.optimizer, self.average, state, self._ranks.rank)

    def complete(self, stop: threading.Event) -> dict[str, Any] | None:
        """Wait for the commit of a dataset that is made meanwhile; its facts as ``live``, None if stopped first."""
        if self._job.planned is None:
            return {}
        live = wait_for_commit(self._job.planned, self._ranks, stop)
        return None if live is None else {"live": live}

    def publish(self, evals: Evals, limit: FileLimit) -> str | None:
        """Publish the averaged weights, or the weights, with ``evals`` as their scores."""
        if (name := self._config.publish) is None:
            return None
        with self.average.swapped_in():
            return publish(name, self._lake, self._job.run, self._inputs, self.model, evals, self._ranks, limit)
