"""A live run's batches: Ray Data tasks take shards from the feed as they are made, and from the lake afterwards."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from datalake import Plan, Repairer, ShardRef, read_shard
from datalake.shards.shard_format import tokens_of
from orchestration.cluster.pool import named_cause, reason_of
from orchestration.errors import WorkerDiedError
from orchestration.live.feed import FedShard
from orchestration.training.ray_data import stream_steps
from orchestration.training.step_rows import consecutive, open_reader, steps_table
from trainer import Batch, TrainDataset

# Shards read back from the lake are kept per process: a window's rows come from the same few shards.
KEPT_SHARDS = 64

COMMIT_WAIT_S = 5.0


@dataclass(frozen=True)
class LiveStream:
    """The feed as the training workers see it: their batches factory, and the planned dataset itself.

    ``index`` is the dataset's place among the plan's sources. Picklable.
    """

    feed: Any
    dataset: TrainDataset
    index: int
    steps_per_task: int

    def commit_facts(self) -> dict[str, Any] | None:
        """See ``trainer.planned.PlannedData``."""
        return ask(self.feed.commit_facts.remote(COMMIT_WAIT_S))

    def batches(
        self,
        plan: Plan,
        start_step: int,
        steps: int,
        world: int,
        rank: int,
        datasets: Sequence[TrainDataset],
        clock: Callable[[], float] = time.perf_counter,
    ) -> Iterator[Batch]:
        """The step loop's batches factory; each batch taken makes room for more."""
        ask(self.feed.begin.remote(start_step, world, rank))
        load = functools.partial(
            load_live_steps,
            feed=self.feed,
            live=self.index,
            shard=self.dataset.manifest.source.shard_sequences,
            seq_len=self.dataset.manifest.seq_len,
            dtype=self.dataset.manifest.token_dtype,
            sources=[
                (dataset.store.uri, "" if at == self.index else dataset.manifest.digest, dataset.repairer)
                for at, dataset in enumerate(datasets)
            ],
            plan=plan,
            world=world,
            rank=rank,
        )
        seq_len, share = self.dataset.manifest.seq_len, plan.batch // world
        # No prefetch: the first batch must not wait for later ones, whose shards the bound may forbid until then.
        # Tasks run ahead all the same, as far as the feed lets them.
        blocks = (range(start_step, steps), self.steps_per_task)
        stream = stream_steps(load, *blocks, share, seq_len, prefetch=0)
        for step in range(start_step, steps):
            asked = clock()
            batch = next(stream)
            self.feed.taken.remote(rank, step + 1, clock() - asked)
            yield batch


def load_live_steps(
    steps: Sequence[int],
    *,
    feed: Any,
    live: int,
    shard: int,
    seq_len: int,
    dtype: np.dtype,
    sources: Sequence[tuple[str, str, Repairer]],
    plan: Plan,
    world: int,
    rank: int,
) -> pa.Table:
    """``load_steps`` where source ``live``, in shards of ``shard`` rows of ``dtype``, is still being made."""
    rows_R2 = plan.rank_step_range(consecutive(steps), world, rank)
    rows_of_live = rows_R2[rows_R2[:, 0] == live, 1]
    firsts = np.unique(rows_of_live // shard * shard).tolist()
    # Asked even where it needs no shard: the feed also bounds how far batches run ahead.
    found = ask(feed.shards.remote(rank, int(steps[-1]) + 1, firsts))
    uri, _, repairer = sources[live]
    readers = [
        open_reader(*source)
        if at != live
        else open_reader(uri, found, repairer)
        if isinstance(found, str)
        else FedRows(uri, shard, seq_len, dtype, found, repairer)
        for at, source in enumerate(sources)
    ]
    return steps_table(steps, rows_R2, readers, seq_len)


class FedRows:
    """Rows of shards that the feed named: mapped from the object store, or read from the lake if they left it."""

    has_roles = False  # what is made while it is read is synthetic

    def __init__(
        self,
        lake_uri: str,
        shard: int,
        seq_len: int,
        dtype: np.dtype,
        found: dict[int, FedShard],
        repairer: Repairer,
    ) -> None:
        self.dtype = dtype
        self._lake_uri, self._shard, self._seq_len = lake_uri, shard, seq_len
        self._found, self._repairer = found, repairer

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N]): ``dtype`` [N, seq_len]."""
        out = np.empty((len(indices), self._seq_len), dtype=self.dtype)
        first_N = indices // self._shard * self._shard
        for first in np.unique(first_N).tolist():
            (places,) = np.nonzero(first_N == first)
            out[places] = self._tokens(first)[indices[places] - first]
        return out

    def roles(self, indices: np.ndarray) -> np.ndarray:
        """Never asked for: there are none."""
        raise NotImplementedError

    def _tokens(self, first: int) -> np.ndarray:
        ref, held = self._found[first]
        if held is not None:
            try:
                return np.asarray(ray.get(held))
            except ObjectLostError:  # with the node that held it; the lake has it
                pass
        return _read_back(self._lake_uri, ref, self._repairer, self.dtype)


@functools.lru_cache(maxsize=KEPT_SHARDS)
def _read_back(lake_uri: str, ref: ShardRef, repairer: Repairer, dtype: np.dtype) -> np.ndarray:
    return tokens_of(read_shard(repairer.open(lake_uri).store, ref), dtype)


def ask(reply: Any) -> Any:
    """The feed's reply; its own named error instead of Ray's account of it, or why it could not start."""
    try:
        return ray.get(reply)
    except RayTaskError as error:
        raise named_cause(error) from error
    except RayActorError as error:
        if error.actor_init_failed:
            raise WorkerDiedError(f"what makes the dataset could not start ({reason_of(error)}): mend that") from error
        raise
