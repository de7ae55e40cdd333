"""Ray Data as transport: each rank's rows of each step, in the plan's order, with back-pressure.

The stream is a range of step numbers mapped to the rows that the plan gives for them, so it can begin at any step and
for any world size; Ray Data neither shuffles nor splits. Every row carries its step and its (dataset, row) numbers, and
the step loop refuses a batch that is not what the plan says.

Ray starts processes for it, which takes seconds: a rank reads its first steps itself, and Ray Data begins behind them.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import ray
import ray.data

from datalake import Plan
from datalake.shards.roles import COLUMN as ROLES
from datalake.shards.roles import roles_of
from datalake.shards.tokens import widest
from orchestration.cluster.resources import LOADING_CPUS
from orchestration.training.step_rows import load_steps
from trainer import Batch, TrainDataset, local_batches
from trainer.data import closing_batches

# Tokens that a rank reads itself: more steps than are made until Ray Data brings some, or few more than one.
OWN_BYTES = 4 << 20

# Large enough that a task's overhead vanishes, small enough that the first batch comes soon.
BLOCK_BYTES = 1 << 20

# Each task is a process that imports us, and a rank is fed by far less than one: without a limit Ray Data starts as
# many as fit in the cluster, to read the whole run ahead. One reads while the next waits, for a store or a live feed.
TASKS = 2

PREFETCH_BATCHES = 8


def ray_data_batches(
    plan: Plan, start_step: int, steps: int, world: int, rank: int, datasets: Sequence[TrainDataset]
) -> Iterator[Batch]:
    """The step loop's batches factory inside a Ray worker: steps `start_step` … `steps - 1` of `rank` of `world`."""
    middle = min(steps, start_step + max(1, OWN_BYTES // _step_bytes(plan, world, datasets)))
    with closing_batches(local_batches(plan, start_step, middle, world, rank, datasets)) as own:
        yield from islice(own, 1)  # before processes start beside it
        if middle == steps:
            yield from own
            return
        behind = Beginning(lambda: all_from_ray_data(plan, middle, steps, world, rank, datasets))
        try:
            yield from own
            yield from behind.items()
        finally:
            behind.close()


def all_from_ray_data(
    plan: Plan, start_step: int, steps: int, world: int, rank: int, datasets: Sequence[TrainDataset]
) -> Generator[Batch]:
    """``ray_data_batches`` without rows that the rank reads itself."""
    load = functools.partial(
        load_steps,
        sources=[(dataset.store.uri, dataset.manifest.digest, dataset.repairer) for dataset in datasets],
        plan=plan,
        world=world,
        rank=rank,
    )
    steps_per_block = max(1, BLOCK_BYTES // _step_bytes(plan, world, datasets))
    seq_len = datasets[0].manifest.seq_len
    return stream_steps(load, range(start_step, steps), steps_per_block, plan.batch // world, seq_len)


def _step_bytes(plan: Plan, world: int, datasets: Sequence[TrainDataset]) -> int:
    """Bytes of the tokens that a rank takes in one step."""
    token_bytes = widest(dataset.manifest.token_dtype for dataset in datasets).itemsize
    return plan.batch // world * datasets[0].manifest.seq_len * token_bytes


class Beginning:
    """An iterator that a thread makes and takes the first item of, while its consumer is still elsewhere."""

    def __init__(self, make: Callable[[], Generator[Batch]]) -> None:
        self._make = make
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        self._rest: Generator[Batch] | None = None
        self._first: list[Batch] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._begin, name="ray-data", daemon=True).start()

    def _begin(self) -> None:
        try:
            rest = self._make()
            self._first = [*islice(rest, 1)]
        except BaseException as error:  # noqa: BLE001  (handed to the consumer, who raises it)
            self._error = error
        else:
            with self._lock:
                self._rest = rest
                if self._closed:
                    rest.close()
        self._begun.set()

    def items(self) -> Iterator[Batch]:
        """All items, once the first is there; what making it raised."""
        self._begun.wait()
        if self._error is not None:
            raise self._error
        yield from self._first
        yield from self._rest or ()

    def close(self) -> None:
        """End what was begun, now or when it has begun: nobody waits for it."""
        with self._lock:
            self._closed = True
            if self._rest is not None:
                self._rest.close()


def stream_steps(
    load: Callable[[Sequence[int]], pa.Table],
    steps: range,
    steps_per_block: int,
    rank_batch: int,
    seq_len: int,
    prefetch: int = PREFETCH_BATCHES,
) -> Generator[Batch]:
    """The batches of `steps` (consecutive) from Ray Data tasks, at most TASKS at once, that `load` a few steps each.

    No task loads more than `steps_per_block` steps, and they start in the order of their steps. With `prefetch` batches
    Ray Data yields none before it holds that many.
    """
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # A corrupt shard must reach the user as that, not as "UDF failed to process a data block".
    context.raise_original_map_exception = True
    tables = (
        ray.data.range(len(steps), override_num_blocks=math.ceil(len(steps) / steps_per_block))
        .map_batches(
            lambda batch: load(batch["id"] + steps.start),
            batch_size=None,
            num_cpus=LOADING_CPUS,
            compute=ray.data.TaskPoolStrategy(TASKS),
        )
        .iter_batches(batch_size=rank_batch, batch_format="pyarrow", prefetch_batches=prefetch)
    )
    return (_to_batch(table, seq_len) for table in tables)


def _to_batch(table: pa.Table, seq_len: int) -> Batch:
    column = table.column("tokens").combine_chunks()
    dtype = np.dtype(f"<u{column.type.byte_width // seq_len}")
    tokens_RT = np.frombuffer(column.buffers()[1], dtype=dtype).reshape(-1, seq_len)
    tokens_RT = tokens_RT[column.offset : column.offset + len(column)]
    rows_R2 = np.stack([table.column("source").to_numpy(), table.column("row").to_numpy()], axis=1)
    steps = np.unique(table.column("step").to_numpy())
    # A batch of several steps can be no step's batch; -1 makes the loop's check refuse it by name.
    roles_RT = roles_of(table, seq_len) if ROLES in table.column_names else None
    return Batch(step=int(steps[0]) if len(steps) == 1 else -1, rows=rows_R2, tokens=tokens_RT, roles=roles_RT)
