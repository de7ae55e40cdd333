"""What is exported has a card: front matter that the Hub's own library reads, and a text on where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, ModelCard

from datalake import DatasetReader, Lake
from orchestration.cli import main
from tests.trainer.lake_data import SEQ_LEN, add_dataset, patterned, tiny_config, tiny_lake
from trainer import TrainJob, run_training


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = tiny_lake(tmp_path_factory.mktemp("cards") / "lake")
    add_dataset(lake, "text", patterned(12), kind="text", tokenizer="bytes", end_of_text=0)
    run_training(TrainJob(tiny_config(steps=2, schedule={}, publish="first"), lake, "first-run"), threads=1)
    then = {"data": [{"dataset": "text@1"}], "transfer": {"source": "first@1"}, "publish": "second", "eval": ["held@1"]}
    run_training(TrainJob(tiny_config(steps=2, schedule={}, **then), lake, "second-run"), threads=1)
    return lake


def test_a_models_card_says_what_it_is_made_from(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("models", "export", "second", out, "--license", "apache-2.0", "--lake", lake.uri) == 0
    card = ModelCard.load(out / "README.md")
    data: Any = card.data
    assert (data.license, data.library_name, data.datasets) == ("apache-2.0", "transformers", ["text"])
    assert {"morphogen", "text"} <= set(data.tags)
    scores = lake.models.get("second").metrics["held@1"]
    found = {result.metric_type: (result.dataset_name, result.metric_value) for result in data.eval_results}
    assert found["perplexity"] == ("held@1", scores["perplexity"])
    text = card.text
    manifest = lake.datasets.manifest("text@1")
    for part in (
        "second@1", "run `second-run`", "2 steps", manifest.content_digest, "weights from first@1",
        "trained on train@1", f"{scores['loss']:.4f}", 'from_pretrained("path/of/this/folder")',
        "ends a text: generation stops at it",
    ):  # fmt: skip
        assert part in text
    plain = tmp_path / "plain"
    assert run("models", "export", "first", plain, "--lake", lake.uri) == 0
    card = ModelCard.load(plain / "README.md")
    assert card.data.to_dict()["license"] == "unknown"
    assert "no token ends generation" in card.text
    assert "AutoTokenizer" not in card.text


def test_a_card_without_scores_or_run(lake: Lake, tmp_path: Path) -> None:
    files = {name: lake.models.open_file("first@1", name) for name in lake.models.get("first@1").files}
    lake.models.publish("bare", files, run="gone")
    assert run("models", "export", "bare", tmp_path / "out", "--lake", lake.uri) == 0
    assert "without held-out scores" in ModelCard.load(tmp_path / "out" / "README.md").text


@pytest.mark.parametrize("format", ["parquet", "huggingface", "jsonl", "bin", "llmc", "megatron", "litdata"])
def test_a_datasets_card_loads_what_it_says(
    lake: Lake, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / format
    arguments = ("data", "export", "train@1", out, "--format", format, "--license", "cc-by-4.0", "--lake", lake.uri)
    assert run(*arguments) == 0
    card = DatasetCard.load(out / "README.md")
    data: Any = card.data
    assert (data.license, data.size_categories, data.pretty_name) == ("cc-by-4.0", "n<1K", "train@1")
    manifest = lake.datasets.manifest("train@1")
    assert manifest.source.spec_digest in card.text
    assert manifest.content_digest in card.text
    code = card.text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(out)
    names: dict[str, Any] = {"pq": pq}
    exec(code, names)
    first = np.asarray(names["tokens"]).reshape(-1)[:SEQ_LEN]
    assert first.tolist() == DatasetReader(lake.store, manifest).rows(np.arange(1))[0].tolist()


def test_a_licence_that_is_none_is_refused_before_anything_is_written(lake: Lake, tmp_path: Path, capsys: Any) -> None:
    for command in (("models", "export", "first"), ("data", "export", "train@1")):
        assert run(*command, tmp_path / "out", "--license", "My own\nlicence", "--lake", lake.uri) == 2
        assert "license = " in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
