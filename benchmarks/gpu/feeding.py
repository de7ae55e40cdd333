"""What a training step waits for rows that are computed as it goes: by CPU workers, and by the same GPU, against none.

Each way feeds the same model the same shapes for the same time; the wait is what `next(batches)` takes, the slow-down
what a step takes beside the one whose rows lie ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import torch

from benchmarks.gpu.report import Report
from benchmarks.trainer import TINY, Manner, Size, ours, size
from datalake.shards.shard_format import tokens_of
from generator import generate_batch, load_preset, parse_spec
from generator.batch import choose_backend, thread_count
from generator.registry import GenerationSpec
from trainer.data import made_ahead
from trainer.map_datasets import NcaDataset
from trainer.precision import resolve_precision

AHEAD = 4
MODEL = {"dim": 512, "layers": 6, "heads": 8}


@dataclass(frozen=True)
class Feed:
    """A way to come by batches, int64 [batch, seq_len] each, on the CPU."""

    name: str
    open: Callable[[], Iterator[torch.Tensor]]


def run(report: Report) -> None:
    """First rows that lie ready, then each way to compute them, in equal parts of the time."""
    device = torch.device("cpu" if report.toy else "cuda")
    spec = parse_spec({"grid": [4, 4], "colors": 3, "seq_len": 65}) if report.toy else load_preset("paper")
    each = size("20M", spec.vocab_size, 32, spec.seq_len - 1, 0, **MODEL)
    if report.toy:
        each = Size("tiny", TINY.shape.model_copy(update={"vocab_size": spec.vocab_size}), 4, spec.seq_len - 1, 0)
    step = ours(each, Manner(resolve_precision("auto", device), device, False, False, "adamw"))
    feeds = [
        Feed("lying ready", lambda: _ready(spec, each)),
        Feed("CPU workers", lambda: _workers(spec, each, report.toy)),
        Feed("this device, with scoring", lambda: _beside(spec, each)),
    ]
    alone = None
    for number, feed in enumerate(feeds):
        seconds = 0.5 if report.toy else 0.7 * report.left() / (len(feeds) - number)
        try:
            with closing(feed.open()) as batches:  # type: ignore[type-var]
                waited, took, steps = _timed(step, batches, device, seconds)
        except Exception as error:  # noqa: BLE001 - one way's failure must not lose the others
            report.figure(feed=feed.name, error=f"{type(error).__name__}: {str(error)[:300]}")
            continue
        alone = alone or took / steps
        report.figure(
            feed=feed.name,
            steps=steps,
            ms_per_step=1e3 * took / steps,
            data_wait=waited / took,
            slower_than_ready=took / steps / alone,
            tokens_per_s=each.batch * each.length * steps / took,
        )


def _timed(
    step: Callable[[torch.Tensor], object], batches: Iterator[torch.Tensor], device: torch.device, seconds: float
) -> tuple[float, float, int]:
    """(seconds waited, seconds in all, steps) after two steps that warm up."""
    for _ in range(2):
        step(next(batches).to(device))
    waited, steps, began = 0.0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not steps:
        asked = time.perf_counter()
        tokens = next(batches)
        waited += time.perf_counter() - asked
        step(tokens.to(device))
        steps += 1
    return waited, time.perf_counter() - began, steps


def _ready(spec: GenerationSpec, each: Size) -> Iterator[torch.Tensor]:
    tokens = _tokens(spec, 0, each.batch, "numba", None)
    while True:
        yield tokens


def _tokens(spec: GenerationSpec, first: int, rows: int, backend: str, threads: int | None) -> torch.Tensor:
    table = generate_batch(spec, 0, first, rows, backend=backend, threads=threads)
    return torch.from_numpy(tokens_of(table, spec.token_dtype).astype(np.int64))


def _workers(spec: GenerationSpec, each: Size, toy: bool) -> Iterator[torch.Tensor]:
    data = NcaDataset(spec, sequences=1 << 40, backend="numba")
    loader = torch.utils.data.DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=each.batch,
        num_workers=1 if toy else max(1, thread_count(None) - 2),
        prefetch_factor=AHEAD,
        multiprocessing_context="forkserver",
    )
    iterator = iter(loader)
    try:
        yield from iterator
    finally:
        del iterator


def _beside(spec: GenerationSpec, each: Size) -> Iterator[torch.Tensor]:
    """A thread that makes 64 batches at a time on the backend that `auto` picks, while the model trains."""
    backend, rows = choose_backend("auto"), 64 * each.batch
    made = (_tokens(spec, first, rows, backend, None).split(each.batch) for first in count(0, rows))
    yield from made_ahead(chain.from_iterable(made), 64 * AHEAD, "rows")
