"""The comparison at 20 million parameters: language from scratch, and with attention carried from automata.

Rows are the `code` preset's, made here, and the source of Python's standard library as bytes, whole files apart for
evaluation. The sizes of the runs are fitted to the time that is left, by a pilot; both arms have the same data order,
schedule and budget, in pairs of seeds, as many pairs as fit. One pair says little, and the figures say so.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu.report import Report
from datalake import Lake, Manifest, Source, content_digest, shard_layout, write_shard
from datalake.canonical import digest_of
from datalake.shards.shard_format import tokens_of
from generator import generate_batch, load_preset, parse_spec
from trainer import Ranks, TrainJob, parse_config, run_training

SHARD = 4096
SEQ_LEN = 512
TEXT_ROWS = 60_000
PILOT_STEPS = 30


def run(report: Report) -> None:
    """Data, a pilot, pre-pre-training, then pairs of arms while the time lasts."""
    toy = report.toy
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(folder)
        synthetic = _automata(lake, 64 if toy else 16_384, toy)
        text, held_out = _library(lake, 64 if toy else TEXT_ROWS)
        model = {"depth": 1, "dim": 16, "heads": 2} if toy else {"depth": 6, "dim": 512, "heads": 8}
        batch = 4 if toy else 64

        def train(name: str, data: str, steps: int, **fields: Any) -> tuple[Any, float]:
            config = parse_config(
                {
                    "model": model,
                    "data": [{"dataset": data}],
                    "steps": steps,
                    "batch_sequences": batch,
                    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
                    "schedule": {"name": "cosine", "warmup_steps": max(1, steps // 20), "final_fraction": 0.1},
                    "eval_every": steps,
                    "eval_sequences": 8 if toy else 512,
                    "checkpoint_every": steps,
                    "log_every": max(1, steps // 20),
                }
                | fields
            )
            began = time.monotonic()
            result = run_training(TrainJob(config, lake, name), Ranks.here(device="cpu" if toy else None))
            return result, time.monotonic() - began

        pilot = 2 if toy else PILOT_STEPS
        train("warm-up", text, pilot)
        seconds = train("pilot", text, pilot)[1] / pilot
        # Pre-pre-training is half as long as an arm: so much is left for 2.5 units of a pair, and a fifth in hand.
        steps = 3 if toy else int(0.8 * report.left() / 2.5 / seconds)
        report.figure(seconds_per_step=seconds, steps=steps, tokens=steps * batch * (SEQ_LEN - 1))
        if steps < 3:
            report.figure(left_out=f"{report.left():.0f} s allow no arm of three steps")
            return
        pre = train("pre", synthetic, max(2, steps // 2), publish="pre")[0]
        report.figure(arm="pre-pre-training", seed=0, steps=pre.step, parameters=pre.facts["parameters"])
        seed = 0
        while seed == 0 or report.left() > 2.4 * seconds * steps:
            arms = {"scratch": {}, "carried": {"transfer": {"source": pre.model, "what": "attn"}}}
            losses = {}
            for arm, fields in arms.items():
                result, took = train(f"{arm}-{seed}", text, steps, eval=[held_out], seed=seed, **fields)
                losses[arm] = result.evals[held_out]["loss"]
                report.figure(arm=arm, seed=seed, steps=steps, loss=losses[arm], seconds=took)
            report.figure(seed=seed, carried_minus_scratch_nats=losses["carried"] - losses["scratch"])
            seed += 1
            if toy:
                break


def _automata(lake: Lake, rows: int, toy: bool) -> str:
    fields = {"grid": [6, 6], "colors": 4} if toy else load_preset("code").model_dump(mode="json")
    spec = parse_spec(fields | {"seq_len": SEQ_LEN})
    table = generate_batch(spec, 0, 0, rows, backend="numba" if toy else "auto")
    return _commit(lake, "automata", tokens_of(table, spec.token_dtype), spec.vocab_size, spec.model_dump(mode="json"))


def _library(lake: Lake, rows: int) -> tuple[str, str]:
    """The standard library's source in the order of its paths' hashes, a file in twenty held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if "site-packages" not in path.parts]
    files.sort(key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    parts: dict[str, bytearray] = {"held-out": bytearray(), "text": bytearray()}
    for number, path in enumerate(files):
        part = parts["held-out" if number % 20 == 0 else "text"]
        if len(part) < rows * SEQ_LEN:
            part += path.read_bytes() + b"\0"
    names = []
    for name, content in parts.items():
        tokens = np.frombuffer(bytes(content), np.uint8)[: len(content) // SEQ_LEN * SEQ_LEN].astype("<u2")
        spec = {"made_by": "benchmarks.gpu", "content": hashlib.sha256(content).hexdigest()}
        names.append(_commit(lake, name, tokens.reshape(-1, SEQ_LEN), 256, spec))
    return names[1], names[0]


def _commit(lake: Lake, name: str, tokens_NT: np.ndarray, vocab: int, spec: dict[str, Any]) -> str:
    """Write rows as a dataset's first version, without counts of bytes; returns its reference."""
    source = Source.model_validate(
        {
            "kind": "synthetic",
            "spec": spec,
            "spec_digest": digest_of(spec),
            "seed": 0,
            "generator": "benchmarks.gpu",
            "shard_sequences": SHARD,
        }
    )
    rows, length = tokens_NT.shape
    refs = []
    for first, count in shard_layout(rows, SHARD):
        part = np.ascontiguousarray(tokens_NT[first : first + count])
        binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * length), count, [None, pa.py_buffer(part)])
        columns = {"sequence_id": pa.array(np.arange(first, first + count)), "tokens": binary}
        refs.append(write_shard(lake.store, source, pa.table(columns), first))
    digest = content_digest(lake.store, refs)
    manifest = Manifest.build(source, refs, seq_len=length, vocab_size=vocab, content_digest=digest)
    return lake.datasets.commit(name, manifest).ref
