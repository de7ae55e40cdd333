"""What an experiment would do, before it does anything: its arms, its runs, and their cost in tokens and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datalake import Lake
from orchestration.corpus.tasks import task_spec
from orchestration.experiment.config.configs import (
    Refs,
    data_level,
    has_stage,
    language_config,
    pre_config,
    shared_hash,
)
from orchestration.experiment.config.file import ExperimentFile
from orchestration.experiment.config.levels import effective_optimizer
from orchestration.experiment.run.prepare import level_spec, pre_levels
from orchestration.runs.names import default_run_name
from trainer import TrainConfig
from trainer.hardware import mean_flops_per_token

TEXT_VOCABULARY = 50_257
"""Assumed for the FLOPs of a tokenizer that does not say its size in its name."""


@dataclass(frozen=True)
class Size:
    """Tokens predicted in training and the FLOPs that takes."""

    tokens: int
    flops: float

    @classmethod
    def of(cls, config: TrainConfig, seq_len: int, vocab_size: int) -> Size:
        """A run's size, evaluation left out. Layers that repeat from an epoch on, which only data tells, count from the
        beginning."""
        tokens = config.steps * config.batch_sequences * (seq_len - 1)
        once = config.model.repeat.from_fraction if config.model.repeat is not None else 0.0
        return cls(tokens, float(tokens * mean_flops_per_token(config.model.shape(vocab_size), seq_len - 1, once)))


def dry_run(lake: Lake, file: ExperimentFile) -> dict[str, Any]:
    """A JSON-able account; nothing is written. Raises what specs raise."""
    shapes = {"text": _target_shape(file)}
    for level in pre_levels(file):
        if level != "text":
            spec = level_spec(lake, file, level)
            shapes[level] = (spec.seq_len, spec.vocab_size)
    largest = max(size for _, size in shapes.values())
    refs = Refs(
        train=file.corpus.name,
        heldout=f"{file.corpus.name}-heldout",
        pre={level: (level, f"{level}-gate") for level in pre_levels(file)},
        vocab_size=largest,
    )
    sizes: dict[str, dict[str, Size]] = {"pre-pre-training": {}, "language": {}, "learning rates": {}}
    arms = []
    for cell in file.cells:
        text = ("text", *shapes["text"])
        for seed in file.seeds:
            before, source = None, None
            if has_stage(cell):
                earlier = pre_config(file, cell, seed, refs)
                source = f"{earlier.publish}@1"
                before = Size.of(earlier, *shapes[data_level(cell["pre"])])
                sizes["pre-pre-training"][default_run_name("pre", earlier)] = before
            config = language_config(file, cell, seed, refs, source=source)
            size = Size.of(config, *text[1:])
            sizes["language"][default_run_name("arm", config)] = size
            arms.append(
                {
                    "factors": cell,
                    "seed": seed,
                    "language_tokens": size.tokens,
                    "pre_tokens": before.tokens if before else 0,
                    "shared_hash": shared_hash(file, config.model_dump(mode="json")),
                }
            )
        if file.sweep is not None:
            source = None
            if has_stage(cell):
                earlier = pre_config(file, cell, file.sweep.seed, refs)
                source = f"{earlier.publish}@1"
                sizes["learning rates"][default_run_name("pre", earlier)] = Size.of(
                    earlier, *shapes[data_level(cell["pre"])]
                )
            for rate in file.sweep.lr[effective_optimizer(cell)]:
                config = language_config(
                    file, cell, file.sweep.seed, refs, source=source, rate=rate, steps=file.sweep.steps
                )
                sizes["learning rates"][default_run_name("arm", config)] = Size.of(config, *text[1:])
    return {
        "name": file.name,
        "question": file.question,
        "digest": file.digest,
        "cells": len(file.cells),
        "seeds": list(file.seeds),
        "shared_hashes": sorted({arm["shared_hash"] for arm in arms}),
        "arms": arms,
        "runs": {
            stage: {
                "runs": len(runs),
                "tokens": sum(size.tokens for size in runs.values()),
                "flops": sum(size.flops for size in runs.values()),
            }
            for stage, runs in sizes.items()
        },
    }


def _target_shape(file: ExperimentFile) -> tuple[int, int]:
    """Tokens per sequence and vocabulary of the target."""
    if file.corpus.task is not None:
        spec = task_spec(file.corpus.task, file.folder)
        return spec.seq_len, spec.vocab_size
    return file.corpus.seq_len, _text_vocabulary(file.corpus.tokenizer)


def _text_vocabulary(tokenizer: str) -> int:
    if tokenizer == "bytes":
        return 257
    size = tokenizer.rpartition(":")[2]
    return int(size) if size.isdigit() else TEXT_VOCABULARY
