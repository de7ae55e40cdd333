"""What a loop of one's own gets of our datasets through a DataLoader: ``python -m benchmarks.readers``.

    python -m benchmarks.readers [--turns N] [--rows N] [--batch N] [--spec NAME] [--computed N] [--only PART] [--json]

Stored: an epoch of the same shuffled rows by litdata's StreamingDataset (its own chunks, made by `data export`), by
`LakeDataset` and from a memory map, turn by turn in one process, so that all meet the same neighbours. The first turn,
in which shards are read and verified, is shown apart. Computed: `generate_batch` on one core beside `NcaDataset` in two
workers and a memory map in two workers, per core. Both by wall clock and by CPU time of all processes, which a busy
machine disturbs less. Training: the demo's model on the demo's rows, stored and computed, turn by turn in one process
without Ray: the share of time that the loop waits for data, and seconds from nothing to the first batch.

Medians over turns, and ratios of turns that followed each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.arguments import whole
from benchmarks.lake import SEQ_LEN, VOCAB, machine, write_dataset
from benchmarks.processes import cpu_seconds
from datalake import Lake
from datalake.maintenance.export import export_dataset
from generator import generate_batch, load_preset, parse_spec
from morphogen import LakeDataset, NcaDataset
from trainer import TrainJob, local_batches, parse_config, run_training
from trainer.inputs import open_inputs

WORKERS = 2


class MappedRows(Dataset[torch.Tensor]):
    """Rows of a bare file of uint16, gathered from a memory map."""

    def __init__(self, path: Path, seq_len: int) -> None:
        self._path, self._seq_len = path, seq_len
        self._rows = np.memmap(path, dtype="<u2", mode="r").reshape(-1, seq_len)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return list(torch.from_numpy(self._rows[indices]))


def stored(rows: int, batch: int, turns: int) -> dict[str, Any]:
    """An epoch of each way of reading, ``turns`` times and once before."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lake = Lake.open(f"{scratch}/lake")
        _, manifest, bare = write_dataset(lake, rows, folder / "bare.u16")
        lake.datasets.commit("rows", manifest)
        export_dataset(lake.store, manifest, folder / "lit", "litdata")

        def in_order(dtype: torch.dtype) -> Iterable[torch.Tensor]:
            return DataLoader(LakeDataset(lake.uri, "rows@1", dtype=dtype), batch_size=batch, shuffle=True)

        narrow, wide = in_order(torch.uint16), in_order(torch.int64)
        mapped = DataLoader(MappedRows(bare, SEQ_LEN), batch_size=batch, shuffle=True)
        chunks = litdata.StreamingDataset(f"{scratch}/lit", item_loader=litdata.TokensLoader(SEQ_LEN), shuffle=True)
        streamed = litdata.StreamingDataLoader(chunks, batch_size=batch, num_workers=0)
        ways: dict[str, Iterable[torch.Tensor]] = {
            "litdata, uint16": streamed,
            "LakeDataset, uint16": narrow,
            "LakeDataset, int64": wide,
            "memory map, uint16": mapped,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        busy: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns + 1):
            for name, loader in ways.items():
                started, used = time.perf_counter(), time.process_time()
                seen = sum(len(each) for each in loader)
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - used)
                if seen != rows:
                    raise AssertionError(f"{name}: {seen} rows of {rows}")
    tokens = rows * SEQ_LEN
    return {
        name: {
            "tokens_per_s": tokens / statistics.median(found[1:]),
            "first_epoch": tokens / found[0],
            "tokens_per_cpu_s": tokens / statistics.median(busy[name][1:]),
            "of_litdata": _ratio(seconds["litdata, uint16"][1:], found[1:]),
            "of_litdata_cpu": _ratio(busy["litdata, uint16"][1:], busy[name][1:]),
        }
        for name, found in seconds.items()
    }


def computed(spec_name: str, rows: int, batch: int, turns: int) -> dict[str, Any]:
    """`generate_batch` on one core, `NcaDataset` and a memory map in two workers; ``rows`` sequences a turn."""
    spec = load_preset(spec_name)
    with tempfile.TemporaryDirectory() as scratch:
        bare = Path(scratch) / "bare.u16"
        table = generate_batch(spec, 0, 0, rows, threads=1)
        bare.write_bytes(b"".join(table.column("tokens").to_pylist()))
        # Workers stay: their start is no part of an epoch's speed.
        options: dict[str, Any] = {"batch_size": batch, "num_workers": WORKERS, "persistent_workers": True}
        data = DataLoader(NcaDataset(spec, sequences=rows, dtype=torch.uint16), shuffle=True, **options)
        mapped = DataLoader(MappedRows(bare, spec.seq_len), shuffle=True, **options)
        ways: dict[str, Callable[[], Any]] = {
            "generate_batch, 1 core": lambda: generate_batch(spec, 0, 0, rows, threads=1),
            f"NcaDataset, {WORKERS} workers": lambda: sum(len(each) for each in data),
            f"memory map, {WORKERS} workers": lambda: sum(len(each) for each in mapped),
        }
        cores = {name: WORKERS if "workers" in name else 1 for name in ways}
        wall: dict[str, list[float]] = {name: [] for name in ways}
        busy: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(turns + 1):
            for name, act in ways.items():
                began, used = time.perf_counter(), cpu_seconds()
                act()
                if turn:  # the first compiles and starts workers
                    wall[name].append((time.perf_counter() - began) * cores[name])
                    busy[name].append(cpu_seconds() - used)
    tokens = rows * spec.seq_len
    base = "generate_batch, 1 core"
    return {
        name: {
            "tokens_per_core_s": tokens / statistics.median(wall[name]),
            "tokens_per_cpu_s": tokens / statistics.median(busy[name]),
            "of_generate": _ratio(wall[base], wall[name]),
            "of_generate_cpu": _ratio(busy[base], busy[name]),
        }
        for name in ways
    }


def training(steps: int, turns: int) -> dict[str, Any]:
    """The demo's pre-pre-training on stored and on computed rows."""
    from orchestration.generation.local import generate_here
    from orchestration.generation.request import GenerateRequest, commit_computed
    from orchestration.pipeline.demo import DEMO

    waits: dict[str, list[float]] = {"stored": [], "computed": []}
    firsts: dict[str, list[float]] = {"stored": [], "computed": []}
    with tempfile.TemporaryDirectory() as scratch:
        lake = Lake.open(f"{scratch}/lake")
        params = lake.params.put("code", parse_spec(DEMO.spec).model_dump(mode="json"))
        request = GenerateRequest(params, DEMO.tokens, shard_sequences=DEMO.shard_sequences)
        commit_computed(lake, replace(request, dataset="computed"))
        generate_here(lake, replace(request, dataset="stored"))
        for turn in range(turns):
            for name, found in waits.items():
                config = parse_config(
                    {
                        "model": DEMO.model,
                        "data": [{"dataset": f"{name}@1"}],
                        "steps": steps,
                        "batch_sequences": DEMO.batch_sequences,
                        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.1},
                        "log_every": max(1, steps // 20),
                        "checkpoint_every": steps,
                    }
                )
                began = time.perf_counter()
                inputs = open_inputs(config, lake)
                next(local_batches(inputs.plan, 0, steps, 1, 0, inputs.train))
                firsts[name].append(time.perf_counter() - began)
                seen: list[float] = []

                def watch(event: dict[str, Any], seen: list[float] = seen) -> None:
                    if event["event"] == "step":
                        seen.append(event["data_wait"])

                run_training(TrainJob(config, lake, f"{name}-{turn}"), on_event=watch)
                found.append(statistics.fmean(seen))  # intervals of as many steps each
    return {
        name: {"data_wait": statistics.median(waits[name]), "most": max(waits[name]), "first_batch_s": firsts[name]}
        for name in waits
    }


def _ratio(base: list[float], mine: list[float]) -> dict[str, float]:
    """How many times as fast as ``base``: median, least and most over the turns."""
    ratios = [theirs / ours for theirs, ours in zip(base, mine, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}; load {result['load'][0]:.1f} before, {result['load'][1]:.1f} after"]
    for name, found in result.get("stored", {}).items():
        ratio, cpu = found["of_litdata"], found["of_litdata_cpu"]
        lines.append(
            f"{name:>26}: {found['tokens_per_s'] / 1e6:7.1f} M tokens/s  {ratio['median']:.2f} of litdata "
            f"({ratio['min']:.2f}–{ratio['max']:.2f}); by CPU time {found['tokens_per_cpu_s'] / 1e6:.1f} M, "
            f"{cpu['median']:.2f} ({cpu['min']:.2f}–{cpu['max']:.2f}); first epoch {found['first_epoch'] / 1e6:.1f} M"
        )
    for name, found in result.get("computed", {}).items():
        ratio, cpu = found["of_generate"], found["of_generate_cpu"]
        lines.append(
            f"{name:>26}: {found['tokens_per_core_s'] / 1e6:7.2f} M tokens/s a core  {ratio['median']:.2f} of "
            f"generate_batch ({ratio['min']:.2f}–{ratio['max']:.2f}); by CPU time {cpu['median']:.2f} "
            f"({cpu['min']:.2f}–{cpu['max']:.2f})"
        )
    for name, found in result.get("training", {}).items():
        lines.append(
            f"{f'training, {name}':>26}: data wait {found['data_wait']:.2%} (at most {found['most']:.2%}), first batch "
            f"after {found['first_batch_s'][0]:.2f} s, later {min(found['first_batch_s']):.3f} s"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=whole(), default=5)
    parser.add_argument("--rows", type=whole(), default=65_536, help=f"stored, of {SEQ_LEN} tokens below {VOCAB}")
    parser.add_argument("--batch", type=whole(), default=64)
    parser.add_argument("--spec", default="code", help="preset of the computed rows")
    parser.add_argument("--computed", type=whole(), default=2048, help="sequences a turn that are computed")
    parser.add_argument("--only", choices=("stored", "computed", "training"))
    parser.add_argument("--steps", type=whole(), default=600, help="of a training")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(), "load": [os.getloadavg()[0]]}
    if options.only in (None, "stored"):
        result["stored"] = stored(options.rows, options.batch, options.turns)
    if options.only in (None, "computed"):
        result["computed"] = computed(options.spec, options.computed, options.batch, options.turns)
    if options.only in (None, "training"):
        result["training"] = training(options.steps, options.turns)
    result["load"].append(os.getloadavg()[0])
    print(json.dumps(result, indent=2) if options.json else as_text(result))


if __name__ == "__main__":
    main()
