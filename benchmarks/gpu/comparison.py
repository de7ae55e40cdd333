"""The comparison at 20 million parameters: language from scratch, and with attention carried from synthetic sequences.

Synthetic are sequences of random linear RNNs and the `code` preset's automata, language the source of Python's standard
library as bytes, whole files apart for evaluation. All arms have the same data order, schedule and budget, in pairs of
seeds: four seeds with AdamW, of a length fitted to the time by a pilot but at most one pass over the text, then as many
with Muon as fit. One pair says little, and the figures say so.

    python -m benchmarks.gpu.comparison DIR     make the data beforehand, for `python -m benchmarks.gpu --data DIR`
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu.report import COMPARISON_DATA, Report
from datalake import Lake, Manifest, Source, content_digest, shard_layout, write_shard
from datalake.canonical import digest_of
from datalake.shards.shard_format import tokens_of
from generator import generate_batch, load_preset, parse_spec
from trainer import Ranks, TrainJob, parse_config, run_training

SHARD = 4096
SEQ_LEN = 512
TEXT_ROWS = 60_000
SYNTHETIC_ROWS = 16_384
PILOT_STEPS = (10, 40)
SEEDS = 4
ARMS = {"scratch": None, "linear-rnn": "linear-rnn", "nca": "automata"}  # and what each is trained on before


def run(report: Report) -> None:
    """Data, a pilot, pre-pre-training, then the arms, seed by seed, while the time lasts."""
    toy = report.toy
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(os.environ.get(COMPARISON_DATA) or folder)
        refs = prepare(lake, toy)
        rows = lake.datasets.manifest(refs["text"]).sequences
        model = {"depth": 1, "dim": 16, "heads": 2} if toy else {"depth": 6, "dim": 512, "heads": 8}
        batch = 4 if toy else 64
        began_at = f"{time.time_ns():x}"  # runs of an earlier call on the same data are not gone on with

        def train(name: str, data: str, steps: int, **fields: Any) -> tuple[Any, float]:
            config = parse_config(
                {
                    "model": model,
                    "data": [{"dataset": refs[data]}],
                    "steps": steps,
                    "batch_sequences": batch,
                    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
                    "schedule": {"name": "cosine", "warmup_steps": max(1, steps // 20), "final_fraction": 0.1},
                    "eval_every": steps,
                    "eval_sequences": 8 if toy else 2048,
                    "checkpoint_every": steps,
                    "log_every": max(1, steps // 20),
                }
                | fields
            )
            began = time.monotonic()
            result = run_training(
                TrainJob(config, lake, f"{name}-{began_at}"), Ranks.here(device="cpu" if toy else None)
            )
            return result, time.monotonic() - began

        few, more = (1, 2) if toy else PILOT_STEPS
        train("warm-up", "text", few)
        times = [train(f"pilot-{steps}", "text", steps)[1] for steps in (few, more)]
        per_step = max(1e-4, (times[1] - times[0]) / (more - few))
        fixed = max(0.0, times[0] - few * per_step) + (0.0 if toy else 2.0)  # the evaluation at a run's end

        # Two models trained half as long before the arms, and a tenth in hand.
        runs = SEEDS * len(ARMS) + 1
        steps = 3 if toy else min(rows // batch, int((0.9 * report.left() / runs - fixed) / per_step))
        report.figure(seconds_per_step=per_step, seconds_per_run=fixed, steps=steps, batch=batch, seq_len=SEQ_LEN)
        if steps < 3:
            report.figure(left_out=f"{report.left():.0f} s allow no arm of three steps")
            return
        before: dict[str, str] = {}
        for arm, data in ARMS.items():
            if data is not None:
                done, took = train(f"pre-{arm}", data, max(2, steps // 2), publish=f"pre-{arm}")
                before[arm] = done.model
                report.figure(trained_before=arm, steps=done.step, parameters=done.facts["parameters"], seconds=took)
        for optimizer in ("adamw", "muon"):
            differences: dict[str, list[float]] = {arm: [] for arm in before}
            for seed in range(SEEDS):
                if report.left() < 1.1 * len(ARMS) * (fixed + per_step * steps * (1.3 if optimizer == "muon" else 1)):
                    report.figure(optimizer=optimizer, left_out_from_seed=seed, seconds_left=report.left())
                    break
                losses = {}
                for arm in ARMS:
                    fields: dict[str, Any] = (
                        {"transfer": {"source": before[arm], "what": "attn"}} if arm in before else {}
                    )
                    if optimizer == "muon":
                        fields["optimizer"] = {"name": "muon", "lr": 0.02, "weight_decay": 0.1}
                    done, took = train(
                        f"{optimizer}-{arm}-{seed}", "text", steps, eval=[refs["held-out"]], seed=seed, **fields
                    )
                    losses[arm] = done.evals[refs["held-out"]]["loss"]
                    report.figure(optimizer=optimizer, arm=arm, seed=seed, loss=losses[arm], seconds=took)
                for arm, found in differences.items():
                    found.append(losses[arm] - losses["scratch"])
                if toy:
                    break
            for arm, found in differences.items():
                if found:
                    spread = statistics.stdev(found) if len(found) > 1 else None
                    report.figure(
                        optimizer=optimizer,
                        arm=arm,
                        minus_scratch_nats=statistics.fmean(found),
                        sd_of_differences=spread,
                        seeds=len(found),
                    )


def prepare(lake: Lake, toy: bool) -> dict[str, str]:
    """References of the datasets by name, made where the lake lacks them."""
    held = set(lake.datasets.names())
    refs = {name: f"{name}@1" for name in ("text", "held-out", "automata", "linear-rnn")}
    if not {"text", "held-out"} <= held:
        _library(lake, 64 if toy else TEXT_ROWS)
    rows = 64 if toy else SYNTHETIC_ROWS
    if "automata" not in held:
        fields = {"grid": [6, 6], "colors": 4} if toy else load_preset("code").model_dump(mode="json")
        _synthetic(lake, "automata", fields, rows, toy)
    if "linear-rnn" not in held:
        _synthetic(lake, "linear-rnn", {"family": "linear-rnn", "vocabulary": 256}, rows, toy)
    return refs


def _synthetic(lake: Lake, name: str, fields: dict[str, Any], rows: int, toy: bool) -> None:
    spec = parse_spec(fields | {"seq_len": SEQ_LEN})
    table = generate_batch(spec, 0, 0, rows, backend="numba" if toy else "auto")
    _commit(lake, name, tokens_of(table, spec.token_dtype), spec.vocab_size, spec.model_dump(mode="json"))


def _library(lake: Lake, rows: int) -> None:
    """The standard library's source in the order of its paths' hashes, a file in twenty held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if "site-packages" not in path.parts]
    files.sort(key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    parts: dict[str, bytearray] = {"held-out": bytearray(), "text": bytearray()}
    for number, path in enumerate(files):
        part = parts["held-out" if number % 20 == 0 else "text"]
        if len(part) < rows * SEQ_LEN:
            part += path.read_bytes() + b"\0"
    for name, content in parts.items():
        tokens = np.frombuffer(bytes(content), np.uint8)[: len(content) // SEQ_LEN * SEQ_LEN].astype("<u2")
        spec = {"made_by": "benchmarks.gpu", "content": hashlib.sha256(content).hexdigest()}
        _commit(lake, name, tokens.reshape(-1, SEQ_LEN), 256, spec)


def _commit(lake: Lake, name: str, tokens_NT: np.ndarray, vocab: int, spec: dict[str, Any]) -> None:
    """Write rows as a dataset's first version, without counts of bytes."""
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
    lake.datasets.commit(name, manifest)


def main() -> None:
    """Make the data in the folder that is named."""
    prepare(Lake.open(sys.argv[1]), toy=False)


if __name__ == "__main__":
    main()
