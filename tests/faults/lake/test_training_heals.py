"""A training run whose shards are lost and corrupted before it starts has the losses of an undamaged one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from datalake.ambient import Ambient
from datalake.healing import Healer, Repair
from datalake.lake import Lake
from datalake.plan import Plan
from datalake.reader import DatasetReader
from datalake.source import Source
from datalake.verify import verify_dataset
from tests.trainer.lake_data import SEQ_LEN, patterned, tiny_config, tiny_lake
from trainer import load_metrics, run_training
from trainer.data import Batch, TrainDataset, read_batch


def recompute(_source: Source, first: int, rows: int) -> pa.Table:
    tokens = np.ascontiguousarray(patterned(22)[first : first + rows])
    column = pa.Array.from_buffers(pa.binary(2 * SEQ_LEN), rows, [None, pa.py_buffer(tokens.tobytes())])
    return pa.table({"sequence_id": pa.array(np.arange(first, first + rows)), "tokens": column})


def losses(lake: Lake, repairs: list[Repair]) -> list[float]:
    """Train the tiny recipe with healing readers; the loss of every step."""
    healer = Healer(recompute, Ambient(), on_repair=repairs.append)

    def batches(
        plan: Plan, start_step: int, steps: int, world: int, rank: int, datasets: Sequence[TrainDataset]
    ) -> Iterator[Batch]:
        readers = [DatasetReader(each.store, each.manifest, healer=healer) for each in datasets]
        return (read_batch(plan, step, world, rank, readers) for step in range(start_step, steps))

    run_training(tiny_config(), lake, "r", batches_factory=batches, device="cpu")
    return [record["loss"] for record in load_metrics(lake, "r") if "loss" in record]


def test_losses_are_those_of_an_undamaged_run(tmp_path: Path) -> None:
    repairs: list[Repair] = []
    expected = losses(tiny_lake(tmp_path / "whole"), repairs)
    assert repairs == []

    lake = tiny_lake(tmp_path / "damaged")
    manifest = lake.datasets.manifest("train@1")
    lake.store.delete(manifest.shards[0].key)
    lake.store.replace(manifest.shards[2].key, b"damaged")
    assert losses(lake, repairs) == expected
    assert len(expected) >= 14
    assert sorted(repair.key for repair in repairs) == [manifest.shards[0].key, manifest.shards[2].key]
    assert verify_dataset(lake.store, manifest).ok
