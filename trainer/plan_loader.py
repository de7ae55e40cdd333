"""The plan's order for anybody's training loop: an iterable of one rank's batches that goes on at any step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datalake import Plan, PlanSource
from datalake.shards.tokens import token_dtype
from trainer.errors import ConfigError, PlanMismatchError
from trainer.lanes import order_by_lanes
from trainer.map_datasets import LakeDataset, RowDataset

AHEAD = 4
"""Batches made in the background while one is trained on."""


class PlanLoader:
    """One rank's batches in plan order, step after step: int64 [about batch / world, seq_len] each.

    Iterating goes on where the loader stands, for ever or to ``steps``. ``state_dict`` and ``load_state_dict`` follow
    the protocol of torchdata's StatefulDataLoader; the state is that of the batches handed out, on any world size.
    """

    def __init__(
        self, datasets: Sequence[RowDataset], plan: Plan, rank: int = 0, world: int = 1, steps: int | None = None
    ) -> None:
        self.plan = plan
        self.rank, self.world, self.steps = rank, world, steps
        self._datasets = tuple(datasets)
        self.step = 0

    def __iter__(self) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1, thread_name_prefix="plan-loader") as pool:
            start = self.step
            ahead: deque[Future[Tensor]] = deque()
            while self.steps is None or self.step < self.steps:
                while len(ahead) < AHEAD and (self.steps is None or start + len(ahead) < self.steps):
                    ahead.append(pool.submit(self.batch, start + len(ahead)))
                made = ahead.popleft().result()
                start += 1
                self.step = start  # before it is handed out: a state taken while a batch is trained on counts it
                try:
                    yield made
                except GeneratorExit:
                    for future in ahead:
                        future.cancel()
                    raise

    def __len__(self) -> int:
        """Steps in all. Raises TypeError if there is no end."""
        if self.steps is None:
            raise TypeError("this loader has no end: give `steps`")
        return self.steps

    def batch(self, step: int) -> Tensor:
        """This rank's rows of global step ``step``: int64 [about batch / world, seq_len]."""
        rows_B2 = self.plan.rank_rows(step, self.world, self.rank)
        tokens_BT = np.empty((len(rows_B2), self._datasets[0].seq_len), dtype=np.int64)
        for source, dataset in enumerate(self._datasets):
            mine_B = rows_B2[:, 0] == source
            if mine_B.any():
                tokens_BT[mine_B] = dataset.tokens(rows_B2[mine_B, 1])
        return torch.from_numpy(tokens_BT)

    def state_dict(self) -> dict[str, Any]:
        """``step``: the next one; ``plan``: the digest of the plan that it belongs to."""
        return {"step": self.step, "plan": self.plan.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken. Raises PlanMismatchError if it belongs to another plan."""
        if state["plan"] != self.plan.digest:
            raise PlanMismatchError(
                f"the state is of plan {state['plan']}, this loader has {self.plan.digest}: give the datasets, "
                "weights, batch and seed with which it was taken"
            )
        self.step = int(state["step"])


def plan_loader(
    datasets: RowDataset | Sequence[RowDataset],
    *,
    batch: int,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    rank: int = 0,
    world: int = 1,
    steps: int | None = None,
    lanes: int | None = None,
) -> PlanLoader:
    """A loader of rank ``rank`` of ``world`` over a mixture; ``batch`` is the global batch in rows.

    The rows are those that ``morphogen train`` reads with the same datasets, weights, batch, seed and ``lanes``, a
    divisor of the batch, with which each rank reads its share of the data alone. Raises ConfigError when datasets do
    not fit each other, PlanError for values out of range.
    """
    given = (datasets,) if isinstance(datasets, RowDataset) else tuple(datasets)
    if not given:
        raise ConfigError("datasets: none given; give one or more")
    weights = (1.0,) * len(given) if weights is None else tuple(weights)
    if len(weights) != len(given):
        raise ConfigError(f"weights: {len(weights)} for {len(given)} datasets; give one for each")
    lengths = sorted({dataset.seq_len for dataset in given})
    if len(lengths) > 1:
        raise ConfigError(f"datasets: seq_len differs ({', '.join(map(str, lengths))}); give datasets of one seq_len")
    if not 0 <= rank < world:
        raise ConfigError(f"rank = {rank}, world = {world}: allowed is 0 to world - 1; change the rank")
    sources = [
        PlanSource(len(dataset), float(weight), dataset.identity)
        for dataset, weight in zip(given, weights, strict=True)
    ]
    stored = {dataset.ref: dataset.manifest for dataset in given if isinstance(dataset, LakeDataset)}
    row_bytes = [dataset.seq_len * token_dtype(dataset.vocab_size).itemsize for dataset in given]
    plan = Plan(sources, seed=seed, batch=batch, schedule=(), **order_by_lanes(lanes, stored, row_bytes))
    return PlanLoader(given, plan, rank, world, steps)
