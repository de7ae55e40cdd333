"""What a run reads: datasets checked to fit together, the plan over them, and the model it starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load
from torch import Tensor

from datalake import Caretaker, Lake, ModelVersion, Plan, PlanSource
from datalake.names import check_name
from trainer import hf_layout
from trainer.config import TrainConfig
from trainer.data import TrainDataset
from trainer.errors import ConfigError
from trainer.mask import frame_tokens
from trainer.mixture import mixture_schedule


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads, opened; ``source`` is the model version that weights are transferred from."""

    train: tuple[TrainDataset, ...]
    eval: tuple[TrainDataset, ...]
    plan: Plan
    seq_len: int
    vocab_size: int
    source: ModelVersion | None

    def describe(self) -> dict[str, Any]:
        """What the run's record names as its inputs, with digests: equal inputs, equal data.

        A synthetic dataset's digest here is its identity, which is known before its bytes: a run that reads it while
        it is made is the same run as one that reads it later.
        """
        return {
            "datasets": [dataset.ref for dataset in self.train],
            "eval": [dataset.ref for dataset in self.eval],
            "models": [self.source.ref] if self.source else [],
            "params": sorted({dataset.params for dataset in self.train if dataset.params is not None}),
            "digests": {dataset.ref: dataset.manifest.identity for dataset in (*self.train, *self.eval)},
            "plan": self.plan.digest,
        }


def open_inputs(
    config: TrainConfig, lake: Lake, promised: TrainDataset | None = None, care: Caretaker | None = None
) -> Inputs:
    """Open all that ``config`` names, its readers in ``care``.

    ``promised`` is one of its training datasets that the lake does not have yet.

    ConfigError when datasets do not fit each other or the model's vocabulary.
    """
    if config.publish is not None:  # or else a bad name would be found out after the last step
        check_name(config.publish, "publish: model")
    care = care or Caretaker()
    train = tuple(
        replace(promised, care=care) if promised and item.dataset == promised.ref else _open(lake, item.dataset, care)
        for item in config.data
    )
    held_out = tuple(_open(lake, ref, care) for ref in config.eval)
    seq_len = train[0].manifest.seq_len
    for dataset in (*train, *held_out):
        if dataset.manifest.seq_len != seq_len:
            raise ConfigError(
                f"dataset {dataset.ref}: seq_len = {dataset.manifest.seq_len}, but {train[0].ref} has {seq_len}; "
                "train and evaluate on datasets of one seq_len"
            )
    if seq_len < 2:
        raise ConfigError(f"dataset {train[0].ref}: seq_len = {seq_len}; at least 2 tokens make one prediction")
    needed = max(dataset.manifest.vocab_size for dataset in (*train, *held_out))
    if config.model.vocab_size is not None and config.model.vocab_size < needed:
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size}: the data needs {needed}; raise it or leave it out"
        )
    if config.loss_mask != "none" and not any(frame_tokens(dataset.manifest.source.spec) for dataset in train):
        raise ConfigError(f"loss_mask = {config.loss_mask!r}: no training dataset shows frames; set it to 'none'")
    weights, changes = mixture_schedule(config.data, config.steps)
    plan = Plan(
        [
            PlanSource(dataset.manifest.sequences, weight, dataset.manifest.identity)
            for dataset, weight in zip(train, weights, strict=True)
        ],
        seed=config.seed,
        batch=config.batch_sequences,
        schedule=changes,
    )
    source = lake.models.get(config.transfer.source) if config.transfer else None
    return Inputs(train, held_out, plan, seq_len, needed, source)


def source_weights(lake: Lake, source: ModelVersion) -> dict[str, Tensor]:
    """The tensors of a model version, verified against its record."""
    return load(lake.models.open_file(source, hf_layout.WEIGHTS))


def _open(lake: Lake, ref: str, care: Caretaker) -> TrainDataset:
    version = lake.datasets.get(ref)
    return TrainDataset(version.ref, lake.datasets.manifest(version), lake.store, version.params, care)
