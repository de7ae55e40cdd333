"""A small real lake for the server's tests: parameters, datasets, text, runs and models."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datalake import Lake, Manifest, Source, content_digest, shard_layout, write_shard
from datalake.canonical import digest_of
from generator import GENERATOR_VERSION, generate_batch, parse_spec
from orchestration.generation.worker import plan_dataset
from orchestration.runs.owner import this_process

SPEC = {
    "family": "nca",
    "grid": [6, 6],
    "colors": 3,
    "embed": 2,
    "hidden": 4,
    "burn_in": 2,
    "seq_len": 128,
}
WIDER = {**SPEC, "hidden": 8, "band": {"score": "gzip-int32-v1-normalized", "low": 0.1, "high": 0.9}}


def put(lake: Lake, name: str, spec: dict, message: str = "") -> str:
    """Register a spec as the server would store it; returns NAME@VERSION."""
    return lake.params.put(name, parse_spec(spec).model_dump(mode="json"), message=message).ref


def add_synthetic(lake: Lake, name: str, spec: dict, rows: int, shard: int = 16, params: str | None = None) -> str:
    """Generate and commit a dataset in this process; returns NAME@VERSION."""
    parsed = parse_spec(spec)
    source = Source(
        kind="synthetic",
        spec=parsed.model_dump(mode="json"),
        spec_digest=parsed.digest,
        seed=7,
        generator=GENERATOR_VERSION,
        shard_sequences=shard,
    )
    refs = [
        write_shard(lake.store, source, generate_batch(parsed, 7, first, count, backend="reference"), first)
        for first, count in shard_layout(rows, shard)
    ]
    digest = content_digest(lake.store, refs)
    manifest = Manifest.build(source, refs, seq_len=parsed.seq_len, vocab_size=parsed.vocab_size, content_digest=digest)
    return lake.datasets.commit(name, manifest, params, message="for the tests").ref


def add_text(lake: Lake, name: str, text: str, length: int = 64) -> str:
    """Commit a text dataset of raw bytes; returns NAME@VERSION."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    tokens_BT = data[: len(data) // length * length].reshape(-1, length).astype("<u2")
    rows = len(tokens_BT)
    spec = {"tokenizer": "bytes", "vocab_size": 257, "end_of_text": 256, "content": digest_of(text)}
    source = Source(kind="text", spec=spec, spec_digest=digest_of(spec), shard_sequences=rows)
    table = pa.table(
        {
            "sequence_id": pa.array(np.arange(rows)),
            "tokens": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(2 * length), rows, [None, pa.py_buffer(np.ascontiguousarray(tokens_BT).tobytes())]
            ),
            "target_bytes": pa.array(np.full(rows, length - 1), pa.int32()),
        }
    )
    refs = [write_shard(lake.store, source, table, 0)]
    manifest = Manifest.build(
        source,
        refs,
        seq_len=length,
        vocab_size=257,
        content_digest=content_digest(lake.store, refs),
        text_bytes=rows * length,
    )
    return lake.datasets.commit(name, manifest).ref


def add_run(lake: Lake, name: str, datasets: list[str], parents: list[str] | None = None) -> str:
    """Record a run as the step loop does, with a curve in two chunks, and publish its model; returns NAME@VERSION."""
    run = lake.runs.start(name, "train", {"steps": 40, "seed": 0}, {"datasets": datasets, "models": parents or []})
    run.add_repair({"key": "data/0/000000000000.parquet", "problem": "missing", "time": "2026-11-22T03:04:05.678Z"})
    run.add_fault("waited", {"seconds": 4.5, "reason": "the store did not answer"})
    for start in (0, 20):
        records = [
            {"step": step, "loss": 3.0 * 0.96**step + 1.0, "lr": 0.001, "grad_norm": 1.0}
            for step in range(start + 1, start + 21)
        ]
        records.append({"step": start + 20, "eval": {datasets[-1]: {"loss": 3.1 * 0.96 ** (start + 20) + 1.1}}})
        run.add_checkpoint(start + 20, {"state.json": b"{}"}, metrics=lines(records))
    model = lake.models.publish(
        f"{name}-model",
        {"config.json": b'{"hidden_size": 16}', "model.safetensors": b"\x00" * 4096},
        run=name,
        datasets=datasets[:1],
        metrics={"evals": {datasets[-1]: {"loss": 1.7, "perplexity": 5.47}}},
        parents=parents or [],
        message="published",
    )
    run.finish({"model": model.ref, "step": 40})
    return model.ref


def lines(records: list[dict]) -> bytes:
    """JSON lines."""
    import json

    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def fill(lake: Lake) -> None:
    """Everything that the pages show."""
    put(lake, "tiny", SPEC, "the beginning")
    second = put(lake, "tiny", WIDER, "wider, and only lively rules")
    lake.params.tag("tiny", "stable", 1)
    put(lake, "volume", {**SPEC, "grid": [4, 4, 4], "patch": 2, "colors": 2, "seq_len": 100}, "three dimensions")
    lake.datasets.commit("unstored", plan_dataset(parse_spec(WIDER), 7, 40, 16), second)
    grids = add_synthetic(lake, "grids", WIDER, 40, params=second)
    lake.datasets.tag("grids", "good", 1)
    add_synthetic(lake, "volumes", {**SPEC, "grid": [4, 4, 4], "colors": 2, "seq_len": 100}, 8, params="volume@1")
    add_synthetic(lake, "lines", {"family": "eca", "rule": 110, "grid": [32], "seq_len": 126}, 8)
    add_synthetic(lake, "brackets", {"family": "dyck", "seq_len": 64}, 8)
    text = add_text(lake, "prose", "The quick brown fox <script>alert(1)</script> jumps. " * 20)
    first = add_run(lake, "pre-pre", [grids])
    add_run(lake, "language", [text], parents=[first])
    dead = this_process() | {"started": 0}
    lost = lake.runs.start("orphan", "generate", {"n": 1}, {}, about={"holder": dead, "parent": "language"})
    lost.send_heartbeat(1, {"done": 3, "of": 10, "unit": "shards", "note": "2 actors"})
