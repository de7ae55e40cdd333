"""Tasks in training: only answers count where that is asked for, and their accuracy is measured either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datalake import Lake, Manifest, Source, content_digest, write_shard
from datalake.shards.shard_format import tokens_of
from generator import GENERATOR_VERSION, generate_batch, parse_spec
from tests.trainer.lake_data import add_dataset, patterned, tiny_config
from trainer import run_training
from trainer.data import TrainDataset
from trainer.errors import ConfigError
from trainer.evaluate import evaluate
from trainer.gate import counting_losses
from trainer.job import TrainJob
from trainer.map_datasets import NcaDataset
from trainer.model import Llama
from trainer.ranks import Ranks

NEEDLE = {"family": "needle", "pairs": 11, "markers": 16, "values": 16}  # 24 tokens, as tiny_config's datasets have
SORT = {"family": "procedural", "task": "sort", "vocabulary": 28, "length": 4, "seq_len": 24}


def add_spec(lake: Lake, name: str, fields: dict, rows: int = 16, seed: int = 0) -> str:
    spec = parse_spec(fields)
    source = Source(
        kind="synthetic",
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        seed=seed,
        generator=GENERATOR_VERSION,
        shard_sequences=rows,
    )
    refs = [write_shard(lake.store, source, generate_batch(spec, seed, 0, rows), 0)]
    manifest = Manifest.build(
        source,
        refs,
        seq_len=spec.seq_len,
        vocab_size=spec.vocab_size,
        content_digest=content_digest(lake.store, refs),
    )
    return lake.datasets.commit(name, manifest).ref


def rows_of(fields: dict, seed: int) -> np.ndarray:
    return tokens_of(generate_batch(parse_spec(fields), seed, 0, 16), np.dtype("<u2"))


def test_only_answers_count_in_the_loss_and_its_gradient(tmp_path: Path) -> None:
    """The loss of a step is that of the answers as scored outside the loop, on the rows that the plan says."""
    lake = Lake.open(str(tmp_path / "lake"))
    train, held = add_spec(lake, "sort", SORT), add_spec(lake, "held", SORT, seed=1)
    config = tiny_config(data=[{"dataset": train}], eval=[held], steps=1, schedule={}, loss_mask="answers")
    config = config.model_copy(update={"batch_sequences": 16})
    events: list[dict] = []
    result = run_training(TrainJob(config, lake, "run"), threads=1, on_event=events.append)
    model = Llama(config.model.shape(32), config.seed)
    answers = parse_spec(SORT).answer_mask()[1:]
    losses = model(torch.from_numpy(rows_of(SORT, 0).astype(np.int64))).detach().numpy()
    (step,) = [event for event in events if event["event"] == "step"]
    assert step["loss"] == pytest.approx(losses[:, answers].mean(), rel=1e-5)
    found = result.evals[held]
    assert found["tokens"] == found["answers"]["tokens"] == 16 * answers.sum()
    assert found["answers"]["accuracy"] == found["accuracy"]
    counting = counting_losses(rows_of(SORT, 1), answers, parse_spec(SORT).vocab_size).mean(axis=0).min()
    assert found["gate"] == found["gate"] | {"counting": pytest.approx(counting), "passed": found["loss"] < counting}
    assert found["answers"]["loss"] == pytest.approx(found["loss"])


def test_answers_are_scored_whatever_counts(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    manifest = lake.datasets.manifest(add_spec(lake, "needle", NEEDLE))
    dataset = TrainDataset("needle@1", manifest, lake.store, None)
    model = Llama(tiny_config().model.shape(32), 3)
    found = evaluate(model, dataset, 16, "fp32", Ranks.here().device, Ranks.here())
    assert found["tokens"] == 16 * 23
    assert found["answers"]["tokens"] == 16
    masked = evaluate(model, dataset, 16, "fp32", Ranks.here().device, Ranks.here(), "answers")
    assert masked["answers"] == found["answers"]
    assert masked["loss"] == found["answers"]["loss"]


def test_shuffled_answers_stand_where_the_tasks_do() -> None:
    data = NcaDataset({"family": "shuffled", "base": SORT}, sequences=4, labels="same", loss_mask="answers")
    labels = data[0]["labels"].numpy()
    assert (labels != -100).tolist() == parse_spec(SORT).answer_mask().tolist()


def test_a_mask_of_answers_without_a_task_is_refused(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    add_dataset(lake, "train", patterned(22))
    add_dataset(lake, "held", patterned(10, seed=1))
    with pytest.raises(ConfigError, match=r"'answers': no training dataset is of a task; set it to 'none'"):
        run_training(TrainJob(tiny_config(loss_mask="answers"), lake, "run"), threads=1)
    with pytest.raises(ConfigError, match="of no task"):
        NcaDataset({"family": "dyck", "seq_len": 16}, sequences=4, labels="same", loss_mask="answers")
