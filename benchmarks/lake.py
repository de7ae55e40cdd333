"""How fast the lake writes and reads: ``python -m benchmarks.lake [--tokens N] [--lake URI] [--json]``.

Every way of reading ends in the same place, int64 batches of torch tensors, and is measured beside a bare memory map
of the same tokens in the same run; the ratio to it is what to look at, since machines are shared and noisy. "wall" is
elapsed time, "CPU" what this process used, all threads together. The best of several passes counts for each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.arguments import whole
from datalake import (
    DatasetReader,
    Lake,
    Manifest,
    NodeCache,
    Plan,
    PlanSource,
    ShardRef,
    Source,
    content_digest,
    digest_of,
    shard_layout,
    verify_dataset,
    write_shard,
)

SEQ_LEN = 1024
SHARD = 4096  # sequences, as `generate` makes them
BATCH = 256
VOCAB = 10_002
PASSES = 15  # a pass is milliseconds: on a busy machine only the best of many was not interrupted


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tokens", type=whole(), default=64 << 20)
    arguments.add_argument(
        "--lake", default=None, help="a folder or s3://bucket/prefix; a temporary folder if left out"
    )
    arguments.add_argument("--no-ray", action="store_true", help="leave Ray Data out: starting it takes 10 s and more")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    torch.set_num_threads(1)  # converting a batch is memory-bound; more threads only fight for the same bus
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch), options.lake or f"{scratch}/lake", options.tokens, with_ray=not options.no_ray)
    print(json.dumps(result, indent=2) if options.json else as_text(result))


def measure(scratch: Path, uri: str, tokens: int, *, with_ray: bool) -> dict[str, Any]:
    """All measurements, in tokens per second."""
    lake = Lake.open(uri)
    sequences = max(BATCH, tokens // SEQ_LEN // BATCH * BATCH)
    tokens = sequences * SEQ_LEN
    written, manifest, bare = write_dataset(lake, sequences, scratch / "bare.u16")
    mapped = np.memmap(bare, dtype="<u2", mode="r").reshape(-1, SEQ_LEN)
    in_turn = [np.arange(start, start + BATCH) for start in range(0, sequences, BATCH)]
    plan = Plan([PlanSource(sequences)], seed=1, batch=BATCH)
    planned = [plan.rows(step)[:, 1] for step in range(len(in_turn))]

    cache = NodeCache(scratch / "cache", 4 * tokens)
    cached = DatasetReader(lake.store, manifest, node_cache=cache)
    in_memory = DatasetReader(lake.store, manifest, cache_shards=len(manifest.shards))
    first_pass = timed(lambda: drain(through(cached, in_turn)), tokens, passes=1)

    ways: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "bare memory map, in turn": lambda: (batch(mapped[i[0] : i[-1] + 1]) for i in in_turn),
        "node cache, in turn": lambda: through(cached, in_turn),
        "bare memory map, plan order": lambda: (batch(mapped[i]) for i in planned),
        "node cache, plan order": lambda: through(cached, planned),
        "shards in memory, plan order": lambda: through(in_memory, planned),
        "pyarrow from the store, in turn": lambda: by_pyarrow(lake, manifest),
    }
    reading: dict[str, dict[str, float]] = {name: {"wall": 0.0, "cpu": 0.0} for name in ways}
    for _ in range(PASSES):  # interleaved, so that a busy minute of the machine hits all alike
        for name, way in ways.items():
            for kind, value in timed(lambda way=way: drain(way()), tokens, passes=1).items():
                reading[name][kind] = max(reading[name][kind], value)
    if with_ray:
        reading["Ray Data, in turn"] = by_ray(lake, manifest, tokens)
    return {
        "machine": machine(),
        "lake": lake.uri.split("://")[0] if "://" in lake.uri else "local folder",
        "tokens": tokens,
        "write": written,
        "verify": timed(lambda: verify_dataset(lake.store, manifest), tokens, passes=2),
        "node cache, first pass (fetch, verify, fill)": first_pass,
        "read": reading,
        "ratio to the bare map": ratios(reading),
        "manifest of 10,000 shards": big_manifest(Lake.open(f"{scratch}/manifests")),
    }


def write_dataset(lake: Lake, sequences: int, bare: Path) -> tuple[dict[str, float], Manifest, Path]:
    """A dataset of uniform tokens in the lake, and the same tokens in a plain file."""
    spec = {"family": "benchmark", "sequences": sequences}
    source = Source(
        kind="synthetic", spec=spec, spec_digest=digest_of(spec), seed=0, generator="0", shard_sequences=SHARD
    )
    tables = [(first, table_of(first, rows)) for first, rows in shard_layout(sequences, SHARD)]
    with bare.open("wb") as file:
        for _, table in tables:
            file.write(table.column("tokens").chunk(0).buffers()[1])
    shards: list[ShardRef] = []
    speed = timed(
        lambda: shards.extend(write_shard(lake.store, source, table, first) for first, table in tables),
        sequences * SEQ_LEN,
        passes=1,
    )
    digest = content_digest(lake.store, shards)
    return speed, Manifest.build(source, shards, seq_len=SEQ_LEN, vocab_size=VOCAB, content_digest=digest), bare


def table_of(first: int, rows: int) -> pa.Table:
    tokens = np.random.default_rng(first).integers(0, VOCAB, (rows, SEQ_LEN), dtype=np.uint16)
    ids = np.arange(first, first + rows, dtype=np.int64)
    column = pa.Array.from_buffers(pa.binary(2 * SEQ_LEN), rows, [None, pa.py_buffer(tokens.tobytes())])
    return pa.table({"sequence_id": ids, "tokens": column, "attempt": (ids % 3).astype(np.int32), "score": ids / 1e6})


def batch(tokens_BT: np.ndarray) -> torch.Tensor:
    """What a model takes: int64 [B, T]."""
    return torch.from_numpy(tokens_BT.astype(np.int64))


def through(reader: DatasetReader, batches: list[np.ndarray]) -> Iterator[torch.Tensor]:
    for indices in batches:
        yield torch.from_numpy(reader.rows(indices, np.empty((len(indices), SEQ_LEN), dtype=np.int64)))


def by_pyarrow(lake: Lake, manifest: Manifest) -> Iterator[torch.Tensor]:
    filesystem, base = lake.store.arrow_filesystem()
    for ref in manifest.shards:
        column = pq.read_table(f"{base}/{ref.key}", columns=["tokens"], filesystem=filesystem).column("tokens")
        raw = column.combine_chunks().buffers()[1]
        tokens = np.frombuffer(raw, dtype="<u2").reshape(-1, SEQ_LEN)
        for start in range(0, len(tokens), BATCH):
            yield batch(tokens[start : start + BATCH])


def by_ray(lake: Lake, manifest: Manifest, tokens: int) -> dict[str, float]:
    """The older Parquet reader, in order, straight from Arrow's buffers; started and warmed up before."""
    os.environ["RAY_DATA_USE_DATASOURCE_V2"] = "0"
    import ray
    import ray.data

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        filesystem, base = lake.store.arrow_filesystem()
        dataset = ray.data.read_parquet(
            [f"{base}/{ref.key}" for ref in manifest.shards], filesystem=filesystem, columns=["tokens"]
        )

        def batches() -> Iterator[torch.Tensor]:
            for table in dataset.iter_batches(batch_size=BATCH, batch_format="pyarrow"):
                column = table.column("tokens").combine_chunks()
                tokens_BT = np.frombuffer(column.buffers()[1], dtype="<u2").reshape(-1, SEQ_LEN)
                yield batch(tokens_BT[column.offset : column.offset + len(column)])

        drain(batches())
        return {"wall": timed(lambda: drain(batches()), tokens, passes=2)["wall"]}
    finally:
        ray.shutdown()


def big_manifest(lake: Lake, shards: int = 10_000) -> dict[str, float]:
    """Seconds to append one dataset version of 10,000 shards to its log, and to open it again."""
    spec = {"family": "benchmark"}
    source = Source(
        kind="synthetic", spec=spec, spec_digest=digest_of(spec), seed=0, generator="0", shard_sequences=SHARD
    )
    refs = []
    for number in range(shards):
        key = f"data/{source.data_digest}/{number * SHARD:012d}.parquet"
        refs.append(ShardRef(key=key, first=number * SHARD, rows=SHARD, bytes=1, sha256=digest_of(number)))
        path = Path(lake.uri) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # committing looks whether shards are there, not into them
    manifest = Manifest.build(source, refs, seq_len=SEQ_LEN, vocab_size=VOCAB, content_digest="0" * 64)
    began = time.perf_counter()
    version = lake.datasets.commit("big", manifest)
    committed = time.perf_counter()
    entries = len(list(lake.store.list("datasets/big/")))
    opened = time.perf_counter()
    Lake.open(lake.uri).datasets.manifest(version.ref)
    done = time.perf_counter()
    return {
        "commit_s": committed - began,
        "open_s": done - opened,
        "log_entries": entries,
        "bytes": len(manifest.canonical),
    }


def timed(work: Callable[[], Any], tokens: int, passes: int) -> dict[str, float]:
    """Tokens per second of wall and of CPU time, the best of ``passes``."""
    best = {"wall": 0.0, "cpu": 0.0}
    for _ in range(passes):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        best["wall"] = max(best["wall"], tokens / (time.perf_counter() - wall))
        best["cpu"] = max(best["cpu"], tokens / max(time.process_time() - cpu, 1e-9))
    return best


def drain(batches: Iterator[torch.Tensor]) -> int:
    return sum(item.shape[0] for item in batches)


def ratios(reading: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each way's speed as a share of the bare map's in the same order of rows."""
    found = {}
    for name, speeds in reading.items():
        order = name.rpartition(", ")[2]
        bare = reading[f"bare memory map, {order}"]
        if not name.startswith("bare"):
            found[name] = {kind: round(value / bare[kind], 3) for kind, value in speeds.items()}
    return found


def machine() -> str:
    """Processor, cores and load, as the numbers depend on all three."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def as_text(result: dict[str, Any]) -> str:
    """The result as a table, in millions of tokens per second."""

    def row(name: str, speeds: dict[str, float], share: dict[str, float] | None = None) -> str:
        cpu = f"{speeds['cpu'] / 1e6:8,.0f}" if "cpu" in speeds else " " * 8
        of = "".join(f"  {kind} {100 * value:.0f} %" for kind, value in (share or {}).items())
        return f"  {name:46} {speeds['wall'] / 1e6:8,.0f} {cpu}{'   of the bare map:' + of if of else ''}"

    lines = [
        f"{result['machine']}; {result['lake']}; {result['tokens']:,} tokens",
        f"  {'M tokens/s':46} {'wall':>8} {'CPU':>8}",
    ]
    for name in ("write", "verify", "node cache, first pass (fetch, verify, fill)"):
        lines.append(row(name, result[name]))
    lines += [row(name, speeds, result["ratio to the bare map"].get(name)) for name, speeds in result["read"].items()]
    big = result["manifest of 10,000 shards"]
    lines.append(
        f"  manifest of 10,000 shards: committed in {big['commit_s']:.2f} s ({big['log_entries']:.0f} log entry), "
        f"opened in {big['open_s']:.2f} s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
