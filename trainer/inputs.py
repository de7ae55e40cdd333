"""What a run reads: datasets checked to fit together, the plan over them, and the model it starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datalake import Lake, Manifest, ModelVersion, Plan, PlanSource, Repairer
from datalake.names import check_name
from datalake.reading.computed import check_generator
from datalake.shards.tokens import widest
from generator import SpecGenerator
from trainer.config import TrainConfig
from trainer.data import TrainDataset
from trainer.documents import document_ends
from trainer.errors import ConfigError
from trainer.lanes import order_by_lanes
from trainer.mask_check import check_masks
from trainer.mixture import mixture_schedule


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads, opened; ``source`` is the model version that weights are transferred from, ``init``
    the one that the run begins with."""

    train: tuple[TrainDataset, ...]
    eval: tuple[TrainDataset, ...]
    plan: Plan
    seq_len: int
    vocab_size: int
    source: ModelVersion | None
    init: ModelVersion | None = None

    @property
    def token_dtype(self) -> np.dtype:
        """What holds a token of any training dataset."""
        return widest(dataset.manifest.token_dtype for dataset in self.train)

    def document_ends(self, config: TrainConfig) -> tuple[list[int | None] | None, list[int | None]]:
        """The token that ends a document in each training dataset, and in each held-out one, where attention is by
        document; see ``documents.document_ends``."""
        return document_ends(config, self.train), document_ends(config, self.eval) or [None] * len(self.eval)

    @property
    def sources(self) -> tuple[ModelVersion, ...]:
        """The models that weights come from."""
        return tuple(model for model in (self.source, self.init) if model is not None)

    @property
    def end_of_text(self) -> int | None:
        """The token that ends a text in the training data; None where no tokenizer, or more than one, made it."""
        found = {
            (spec["tokenizer"], spec.get("tokenizer_digest"), spec.get("end_of_text"))
            for dataset in self.train
            if "tokenizer" in (spec := dataset.manifest.source.spec)
        }
        return next(iter(found))[2] if len(found) == 1 else None

    def describe(self) -> dict[str, Any]:
        """What the run's record names as its inputs, with digests: equal inputs, equal data.

        A synthetic dataset's digest here is its identity, which is known before its bytes: a run that reads it while
        it is made is the same run as one that reads it later.
        """
        return {
            "datasets": [dataset.ref for dataset in self.train],
            "eval": [dataset.ref for dataset in self.eval],
            "models": [source.ref for source in self.sources],
            "params": sorted({dataset.params for dataset in self.train if dataset.params is not None}),
            "digests": {dataset.ref: dataset.manifest.identity for dataset in (*self.train, *self.eval)},
            "plan": self.plan.digest,
        }


def open_inputs(
    config: TrainConfig, lake: Lake, planned: TrainDataset | None = None, repairer: Repairer | None = None
) -> Inputs:
    """Open all that ``config`` names, its readers in ``repairer``.

    ``planned`` is one of its training datasets that the lake does not have yet.

    ConfigError when datasets do not fit each other or the model's vocabulary, RetiredError for what is retired,
    GeneratorVersionError for a dataset that another generator computes.
    """
    if config.publish is not None:  # or else a bad name would be found out after the last step
        check_name(config.publish, "publish: model")
    repairer = repairer or Repairer()
    train = tuple(
        replace(planned, repairer=repairer)
        if planned and item.dataset == planned.ref
        else _open(lake, item.dataset, repairer)
        for item in config.data
    )
    held_out = tuple(_open(lake, ref, repairer) for ref in config.eval)
    seq_len = train[0].manifest.seq_len
    for dataset in (*train, *held_out):
        if dataset.manifest.seq_len != seq_len:
            raise ConfigError(
                f"dataset {dataset.ref}: seq_len = {dataset.manifest.seq_len}, but {train[0].ref} has {seq_len}; "
                "train and evaluate on datasets of one seq_len"
            )
    if seq_len < 2:
        raise ConfigError(f"dataset {train[0].ref}: seq_len = {seq_len}; at least 2 tokens make one prediction")
    if config.model.learned_positions is not None and seq_len - 1 > config.model.learned_positions:
        raise ConfigError(
            f"model.learned_positions = {config.model.learned_positions}: rows of {seq_len} tokens need {seq_len - 1}; "
            "raise it, or read shorter rows"
        )
    needed = max(dataset.manifest.vocab_size for dataset in (*train, *held_out))
    if config.model.vocab_size is not None and config.model.vocab_size < needed:
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size}: the data needs {needed}; raise it or leave it out"
        )
    check_masks(config, train, held_out)
    weights, changes = mixture_schedule(config.data, config.horizon)
    plan = Plan(
        [
            PlanSource(dataset.manifest.sequences, weight, dataset.manifest.identity)
            for dataset, weight in zip(train, weights, strict=True)
        ],
        seed=config.seed,
        batch=config.batch_sequences,
        schedule=changes,
        **order_by_lanes(
            config.lanes,
            {dataset.ref: dataset.manifest for dataset in train},
            (dataset.manifest.row_bytes for dataset in train),
        ),
    )
    source = lake.models.usable(config.transfer.source) if config.transfer else None
    init = lake.models.usable(config.init) if config.init is not None else None
    inputs = Inputs(train, held_out, plan, seq_len, needed, source, init)
    inputs.document_ends(config)  # or raises, before anything is built
    if init is not None:
        _check_init(config, lake, init, inputs)
    return inputs


def _check_init(config: TrainConfig, lake: Lake, init: ModelVersion, inputs: Inputs) -> None:
    """ConfigError where the run's model is not the one that it begins with, or reads tokens of another tokenizer."""
    from trainer.hf_layout import CONFIG, from_hf_config, read_config  # brings PyTorch

    theirs = from_hf_config(read_config(lake.models.open_file(init, CONFIG)))
    ours = config.model.shape(theirs.vocab_size)
    for field in type(ours).model_fields:
        if (wanted := getattr(ours, field)) != (found := getattr(theirs, field)):
            raise ConfigError(
                f"model.{field} = {wanted}: init = {config.init!r} has {found}; give the same, or leave [model] out"
            )
    if theirs.vocab_size < inputs.vocab_size:
        raise ConfigError(
            f"init = {config.init!r}: has a vocabulary of {theirs.vocab_size}, the data of {inputs.vocab_size}; "
            "begin with a model of the data's vocabulary, or carry weights over by [transfer]"
        )
    before = {end for ref in init.datasets if (end := tokenizer_of(lake.datasets.manifest(ref))) is not None}
    for dataset in inputs.train:
        mine = tokenizer_of(dataset.manifest)
        if before and mine is not None and mine not in before:
            raise ConfigError(
                f"data: {dataset.ref} is tokenised by {mine[0]} ({mine[1] or 'no digest'}), init = {config.init!r} was "
                f"trained on text of {', '.join(sorted(name for name, _ in before))}; use one tokenizer, or carry "
                "weights over by [transfer]"
            )


def tokenizer_of(manifest: Manifest) -> tuple[str, str] | None:
    """(name, digest or "") of the tokenizer that made a dataset's tokens; None where none of ours did."""
    spec = manifest.source.spec
    return (str(spec["tokenizer"]), str(spec.get("tokenizer_digest", ""))) if "tokenizer" in spec else None


def _open(lake: Lake, ref: str, repairer: Repairer) -> TrainDataset:
    version = lake.datasets.usable(ref)
    manifest = lake.datasets.manifest(version)
    check_generator(manifest, version.ref, SpecGenerator())
    return TrainDataset(version.ref, manifest, lake.store, version.params, repairer)
