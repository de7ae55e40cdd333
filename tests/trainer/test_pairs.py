"""Rows that say which tokens are answers: only those count, over any number of ranks, as plain PyTorch has it."""

from __future__ import annotations

import contextlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from datalake import DatasetReader, Lake
from datalake.shards.roles import role_column, roles_of
from orchestration.training.ray_data import _to_batch
from orchestration.training.step_rows import load_steps
from tests.processes import run_ranks
from tests.trainer.lake_data import (
    add_dataset,
    add_pairs,
    curve,
    eval_curve,
    pair_rows,
    patterned,
    tiny_config,
)
from tests.trainer.test_ranks import free_port
from trainer import Batch, Ranks, TrainJob, load_metrics, local_batches, run_training
from trainer.config import DataConfig
from trainer.data import TrainDataset
from trainer.errors import ConfigError, PlanMismatchError
from trainer.evaluate import evaluate
from trainer.evaluate_roles import whole_answers
from trainer.inputs import open_inputs
from trainer.map_datasets import LakeDataset
from trainer.model import Llama

WORLD = 2
STEPS = 9
PAIRS = [{"dataset": "pairs@1", "loss": "answers"}]
RECIPE: dict[str, Any] = {
    "data": PAIRS,
    "eval": ["held@1"],
    "steps": STEPS,
    "optimizer": {"lr": 1e-2, "weight_decay": 0.0, "grad_clip": None},
    "schedule": {"final_fraction": 1.0},
    "spike_nats": None,
}
MIXED: dict[str, Any] = {
    **RECIPE,
    "data": [*PAIRS, {"dataset": "plain@1"}, {"dataset": "framed@1", "loss": "first_frame"}],
    "micro_batches": 2,
    "lanes": 2,
}


class Killed(BaseException):
    """Leaves the loop, on every rank at once, as nothing it catches could."""


def pairs_lake(path: Path) -> Lake:
    lake = Lake.open(str(path))
    add_pairs(lake, "pairs", 22)
    add_pairs(lake, "held", 10, seed=1)
    add_dataset(lake, "plain", patterned(12, seed=2), kind="text", end_of_text=31)
    add_dataset(lake, "framed", patterned(12, seed=3), family="nca", grid=[4, 4], patch=2)
    return lake


def train(lake: Lake, run: str, recipe: dict[str, Any], *, rank: int = 0, world: int = 1, kill_at: int = 0) -> None:
    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == kill_at:
            raise Killed

    with contextlib.suppress(Killed):
        job = TrainJob(tiny_config(**recipe), lake, run)
        run_training(job, Ranks.here(rank, world), on_event=watch, threads=1)


def worker(rank: int, port: int, lake_uri: str, report: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    lake = Lake.open(lake_uri)
    for run, recipe in (("two", RECIPE), ("two-mixed", MIXED)):
        train(lake, run, recipe, rank=rank, world=WORLD)
        train(lake, f"{run}-killed", recipe, rank=rank, world=WORLD, kill_at=5)
        train(lake, f"{run}-killed", recipe, rank=rank, world=WORLD)
    Path(f"{report}.{rank}").write_text(json.dumps({"done": True}))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # see test_ranks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("pairs")
    lake = pairs_lake(folder / "lake")
    for run, recipe in (("one", RECIPE), ("one-mixed", MIXED)):
        train(lake, run, recipe)
        train(lake, f"{run}-killed", recipe, kill_at=5)
        train(lake, f"{run}-killed", recipe)
    run_ranks(worker, free_port(), lake.uri, str(folder / "report"))
    assert (folder / "report.1").exists()
    return lake


def reference(lake: Lake, recipe: dict[str, Any]) -> list[float]:
    """The losses of a plain loop over the plan's rows: the mean over what counts in the whole batch."""
    config = tiny_config(**recipe)
    inputs = open_inputs(config, lake)
    model = Llama(config.model.shape(inputs.vocab_size), config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    readers = [DatasetReader(dataset.store, dataset.manifest) for dataset in inputs.train]
    found = []
    for step in range(STEPS):
        total, count = torch.zeros(()), 0
        for source, row in inputs.plan.rows(step).tolist():
            tokens = torch.from_numpy(readers[source].rows(np.array([row])).astype(np.int64))
            counts = torch.ones(tokens.shape[1] - 1, dtype=torch.bool)
            if source == 0:
                counts = torch.from_numpy(readers[0].roles(np.array([row]))[0, 1:] == 2)
            if source == 2:
                counts[:5] = False
            total, count = total + model(tokens)[0][counts].sum(), count + int(counts.sum())
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("world", ["one", "two"])
@pytest.mark.parametrize(("kind", "recipe"), [("", RECIPE), ("-mixed", MIXED)], ids=["pairs", "mixture"])
def test_training_is_a_plain_loop_s(runs: Lake, world: str, kind: str, recipe: dict[str, Any]) -> None:
    losses = [loss for _, loss, *_ in curve(load_metrics(runs, f"{world}{kind}"))]
    assert losses == pytest.approx(reference(runs, recipe), rel=2e-4)


@pytest.mark.parametrize("run", ["one", "one-mixed", "two", "two-mixed"])
def test_killed_and_resumed_is_the_same_to_the_bit(runs: Lake, run: str) -> None:
    found, whole = load_metrics(runs, f"{run}-killed"), load_metrics(runs, run)
    assert curve(found) == curve(whole)
    assert eval_curve(found) == eval_curve(whole)
    assert runs.runs.get(f"{run}-killed").state["attempts"] == 2


def test_what_counts_differs_between_ranks(runs: Lake) -> None:
    """Or the ranks' own means would do."""
    inputs = open_inputs(tiny_config(**RECIPE), runs)
    reader = inputs.train[0].reader()
    counts = [
        [(reader.roles(inputs.plan.rank_rows(step, WORLD, rank)[:, 1]) == 2).sum() for rank in range(WORLD)]
        for step in range(STEPS)
    ]
    assert all(first != second for first, second in counts[:3])


def test_with_attention_by_document_a_pair_is_as_if_alone(runs: Lake) -> None:
    """The loss of a step is that of its pairs one by one, each after the token that ends a text."""
    model = {"depth": 2, "dim": 16, "heads": 2, "attention": "document"}
    config = tiny_config(**{**RECIPE, "model": model, "steps": 1, "eval": []})
    losses: list[float] = []
    run_training(
        TrainJob(config, runs, "by-document"),
        on_event=lambda event: losses.append(event["loss"]) if event["event"] == "step" else None,
        threads=1,
    )
    inputs = open_inputs(config, runs)
    alone, reader = Llama(tiny_config().model.shape(32), config.seed), inputs.train[0].reader()
    total, count = 0.0, 0
    for row in inputs.plan.rows(0)[:, 1].tolist():
        tokens_T, roles_T = reader.rows(np.array([row]))[0], reader.roles(np.array([row]))[0]
        ends = [at for at in range(1, int((roles_T > 0).sum())) if (tokens_T[at], roles_T[at]) == (31, 2)]
        for begin, end in pairwise([0, *ends]):
            with torch.no_grad():
                found = alone(torch.from_numpy(tokens_T[None, begin : end + 1].astype(np.int64)))[0].numpy()
            answers = roles_T[begin + 1 : end + 1] == 2
            total, count = total + found[answers].sum(), count + answers.sum()
    assert losses == [pytest.approx(total / count, rel=1e-5)]


def test_evaluation_scores_answers_alone_and_whole(runs: Lake) -> None:
    (record,) = [row["eval"]["held@1"] for row in eval_curve(load_metrics(runs, "one")) if row["step"] == STEPS]
    manifest = runs.datasets.manifest("held@1")
    tokens_BT, roles_BT = pair_rows(10, seed=1)
    assert record["tokens"] == record["answers"]["tokens"] == (roles_BT[:, 1:] == 2).sum()
    assert record["loss"] == record["answers"]["loss"]
    assert "bits_per_byte" not in record
    dataset, model = TrainDataset("held@1", manifest, runs.store, None), Llama(tiny_config().model.shape(32), 3)
    whole = evaluate(model, dataset, 10, "fp32", Ranks.here().device, Ranks.here())
    with torch.no_grad():
        losses = model(torch.from_numpy(tokens_BT.astype(np.int64))).double().numpy()
    assert whole["tokens"] == (roles_BT[:, 1:] > 0).sum() < 10 * 23, "padding does not count"
    assert whole["loss"] == pytest.approx(losses[roles_BT[:, 1:] > 0].mean(), rel=1e-6)
    assert whole["answers"]["loss"] == pytest.approx(losses[roles_BT[:, 1:] == 2].mean(), rel=1e-6)
    assert whole["bits_per_byte"] > 0
    assert {"from", "to", "loss"} == set(whole["curve"][0])


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=5))
def test_whole_answers_are_runs_without_a_miss(rows: list[list[tuple[bool, bool]]]) -> None:
    answers, hits = np.array(rows)[..., 0], np.array(rows)[..., 1]
    runs = []
    for row in rows:
        before = False
        for answer, hit in row:
            if answer and not before:
                runs.append([])
            if answer:
                runs[-1].append(hit)
            before = answer
    assert whole_answers(answers, hits) == (len(runs), sum(map(all, runs)))


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_roles_come_back_as_they_went_in(length: int, seed: int) -> None:
    import pyarrow as pa

    roles = np.random.Generator(np.random.Philox(seed)).integers(0, 3, (5, length)).astype(np.uint8)
    table = pa.table({"roles": role_column(roles)})
    assert np.array_equal(roles_of(table, length), roles)
    assert np.array_equal(roles_of(table.slice(2, 2), length), roles[2:4])


def test_ray_s_batches_bring_the_same_roles(runs: Lake) -> None:
    inputs = open_inputs(tiny_config(**MIXED), runs)
    sources = [(item.store.uri, item.manifest.digest, item.repairer) for item in inputs.train]
    for batch in local_batches(inputs.plan, 0, STEPS, WORLD, 1, inputs.train):
        found = _to_batch(load_steps([batch.step], sources=sources, plan=inputs.plan, world=WORLD, rank=1), 24)
        assert (found.rows.tolist(), found.tokens.tolist()) == (batch.rows.tolist(), batch.tokens.tolist())
        assert found.roles.tolist() == batch.roles.tolist()


def test_a_batch_without_roles_is_refused(runs: Lake) -> None:
    def bare(*args: Any) -> Any:
        for batch in local_batches(*args):
            yield Batch(batch.step, batch.rows, batch.tokens)

    with pytest.raises(PlanMismatchError, match="without the roles of their tokens"):
        run_training(TrainJob(tiny_config(**RECIPE), runs, "bare", batches=bare), threads=1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"data": [{"dataset": "plain@1", "loss": "answers"}]},
            "'answers': dataset plain@1 has no answers: it",
        ),
        ({"data": [{"dataset": "pairs@1", "loss": "first_frame"}]}, "'first_frame': dataset pairs@1 shows no frames"),
        ({"data": [{"dataset": "plain@1"}], "loss_mask": "answers"}, "'answers': no training dataset is of a task"),
    ],
)
def test_a_loss_without_what_it_goes_by_is_refused(runs: Lake, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_inputs(tiny_config(**{**RECIPE, **changes}), runs)


def test_loss_mask_holds_where_a_dataset_says_nothing(runs: Lake) -> None:
    config = tiny_config(**{**RECIPE, "data": [{"dataset": "pairs@1"}], "loss_mask": "answers"})
    assert config.masks == ("answers",)
    open_inputs(config, runs)
    assert "loss" not in DataConfig(dataset="pairs@1").model_dump(), "a config's digest is the identity of its run"


def test_a_map_dataset_labels_answers_alone(runs: Lake) -> None:
    tokens_BT, roles_BT = pair_rows(22)
    for mask, least in (("none", 1), ("answers", 2)):
        data = LakeDataset(runs.uri, "pairs@1", labels="shifted", loss_mask=mask)
        for sample, tokens_T, roles_T in zip((data[0], data[-1]), tokens_BT[[0, -1]], roles_BT[[0, -1]], strict=True):
            expected = np.where(roles_T[1:] >= least, tokens_T[1:].astype(np.int64), -100)
            assert sample["labels"].tolist() == expected.tolist()
