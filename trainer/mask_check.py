"""What a run says of the predictions that count, held against the datasets that it reads."""

from __future__ import annotations

from collections.abc import Sequence

from datalake import Manifest
from datalake.shards.roles import has_roles
from trainer.config import TrainConfig
from trainer.data import TrainDataset
from trainer.errors import ConfigError
from trainer.mask import LossMask, dataset_applies, dataset_mask, frame_tokens


def eval_mask(config: TrainConfig, manifest: Manifest) -> LossMask:
    """Which predictions count in a held-out dataset: what ``loss_mask`` says, or answers alone where some training
    dataset asks for those by its own ``loss`` and this one has them."""
    answers = any(item.loss == "answers" for item in config.data) and dataset_applies(manifest, "answers")
    return "answers" if answers else config.loss_mask


def check_masks(config: TrainConfig, train: Sequence[TrainDataset], held_out: Sequence[TrainDataset]) -> None:
    """ConfigError where a mask goes by what no training dataset shows, or leaves nothing to predict."""
    mask = config.loss_mask
    by_default = [dataset for item, dataset in zip(config.data, train, strict=True) if item.loss is None]
    if by_default and not any(dataset_applies(dataset.manifest, mask) for dataset in train):
        lacking = "is of a task" if mask == "answers" else "shows frames"
        raise ConfigError(f"loss_mask = {mask!r}: no training dataset {lacking}; set it to 'none'")
    for item, dataset in zip(config.data, train, strict=True):
        if item.loss is not None and not dataset_applies(dataset.manifest, item.loss):
            lacks = (
                "has no answers: it is of no task, and was not added as pairs (morphogen corpus add --prompt-field … "
                "--answer-field …, or --messages … --answers)"
                if item.loss == "answers"
                else "shows no frames"
            )
            raise ConfigError(
                f"data.loss = {item.loss!r}: dataset {dataset.ref} {lacks}; leave loss out, or set 'none'"
            )
    masks = [*config.masks, *(eval_mask(config, dataset.manifest) for dataset in held_out)]
    for dataset, used in zip((*train, *held_out), masks, strict=True):
        manifest = dataset.manifest
        if not has_roles(manifest) and not dataset_mask(manifest, used).any():
            raise ConfigError(
                f"loss_mask = {used!r}: leaves nothing to predict in dataset {dataset.ref}, whose rows of "
                f"{manifest.seq_len} tokens end within the first frame of {frame_tokens(manifest.source.spec)}; set it "
                "to 'none' or use longer rows"
            )
