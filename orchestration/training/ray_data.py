"""Ray Data as transport: each rank's rows of each step, in the plan's order, with back-pressure.

The stream is a range of step numbers mapped to the rows that the plan gives for them, so it can begin at any step and
for any world size; Ray Data neither shuffles nor splits. Every row carries its step and its (dataset, row) numbers, and
the step loop refuses a batch that is not what the plan says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

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
from trainer import Batch, TrainDataset

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
    seq_len = datasets[0].manifest.seq_len
    load = functools.partial(
        load_steps,
        sources=[(dataset.store.uri, dataset.manifest.digest, dataset.repairer) for dataset in datasets],
        plan=plan,
        world=world,
        rank=rank,
    )
    rank_batch = plan.batch // world
    token_bytes = widest(dataset.manifest.token_dtype for dataset in datasets).itemsize
    steps_per_block = max(1, BLOCK_BYTES // (rank_batch * seq_len * token_bytes))
    return stream_steps(load, range(start_step, steps), steps_per_block, rank_batch, seq_len)


def stream_steps(
    load: Callable[[Sequence[int]], pa.Table],
    steps: range,
    steps_per_block: int,
    rank_batch: int,
    seq_len: int,
    prefetch: int = PREFETCH_BATCHES,
) -> Iterator[Batch]:
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
