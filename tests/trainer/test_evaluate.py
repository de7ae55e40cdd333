"""Evaluation sums what it says it sums; the gate compares like with like."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datalake import Lake
from tests.trainer.lake_data import SEQ_LEN, VOCAB, add_dataset, patterned, tiny_config, tiny_lake
from trainer import Llama, ModelConfig, TrainDataset, TrainJob, run_training, unigram_entropy
from trainer.evaluate import bucket_edges, evaluate
from trainer.ranks import Ranks

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


def open_dataset(lake: Lake, ref: str) -> TrainDataset:
    return TrainDataset(ref, lake.datasets.manifest(ref), lake.store)


@settings(deadline=None)
@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.integers(0, 6)))
def test_entropy_is_that_of_the_counts(tokens_BT: np.ndarray) -> None:
    for row_T, found in zip(tokens_BT, unigram_entropy(tokens_BT), strict=True):
        shares = [count / len(row_T) for count in Counter(row_T.tolist()).values()]
        assert found == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-12)


@given(st.integers(1, 3000))
def test_buckets_cover_every_position_once(length: int) -> None:
    edges = bucket_edges(length)
    assert (edges[0], edges[-1]) == (0, length)
    widths = np.diff(edges)
    assert widths.min() >= 1
    assert widths.max() - widths.min() <= 1
    assert len(widths) == min(16, length)


def test_sums_are_those_of_the_first_rows(lake: Lake) -> None:
    tokens_BT = patterned(40, seed=4)
    dataset = open_dataset(lake, add_dataset(lake, "many", tokens_BT))
    model = Llama(ModelConfig(depth=1, dim=16, heads=2).shape(VOCAB), 0)
    found = evaluate(model, dataset, 35, "fp32", CPU, ALONE)
    chosen = torch.from_numpy(tokens_BT[:35].astype(np.int64))
    with torch.no_grad():
        losses_BT = model(chosen).double().numpy()
        hits_BT = (model.logits(chosen)[:, :-1].argmax(-1) == chosen[:, 1:]).numpy()
    assert (found["sequences"], found["tokens"]) == (35, 35 * (SEQ_LEN - 1))
    assert found["loss"] == pytest.approx(losses_BT.mean(), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(losses_BT.mean()), rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits_BT.mean())
    edges = [bucket["from"] for bucket in found["curve"]] + [found["curve"][-1]["to"]]
    assert (edges[0], edges[-1]) == (1, SEQ_LEN)
    for bucket in found["curve"]:
        assert bucket["loss"] == pytest.approx(losses_BT[:, bucket["from"] - 1 : bucket["to"] - 1].mean(), rel=1e-6)
    assert found["gate"]["entropy"] == pytest.approx(unigram_entropy(tokens_BT[:35, 1:]).mean())
    assert found["gate"]["passed"] is False


def test_all_rows_where_there_are_fewer(lake: Lake) -> None:
    model = Llama(ModelConfig(depth=1, dim=16, heads=2).shape(VOCAB), 0)
    assert evaluate(model, open_dataset(lake, "held@1"), 10**6, "fp32", CPU, ALONE)["sequences"] == 10


def test_bits_per_byte_of_text(lake: Lake) -> None:
    tokens_BT = patterned(12, seed=5)
    dataset = open_dataset(lake, add_dataset(lake, "text", tokens_BT, kind="text"))
    model = Llama(ModelConfig(depth=1, dim=16, heads=2).shape(VOCAB), 0)
    found = evaluate(model, dataset, 7, "fp32", CPU, ALONE)
    size = int((tokens_BT[:7, 1:] % 3 + 1).sum())
    assert found["bytes"] == size
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * found["tokens"] / math.log(2) / size)
    assert "gate" not in found


def test_gate_passes_once_the_rule_is_inferred_in_context(tmp_path: Path) -> None:
    """Repeated words cost log 4 nats by frequency and next to nothing once seen: the loss falls along the sequence."""
    lake = tiny_lake(tmp_path / "lake")
    add_dataset(lake, "large", patterned(4000, seed=6), shard=1000)
    config = tiny_config(
        model={"depth": 2, "dim": 32, "heads": 2},
        data=[{"dataset": "large@1"}],
        steps=250,
        batch_sequences=32,
        checkpoint_every=1000,
        eval_every=1000,
        log_every=50,
    )
    scores = run_training(TrainJob(config, lake, "learns"), threads=1).evals["held@1"]
    assert scores["gate"]["passed"], scores["gate"]
    losses = [bucket["loss"] for bucket in scores["curve"]]
    assert losses[-1] < 0.2 * losses[0]
    assert scores["accuracy"] > 0.6
