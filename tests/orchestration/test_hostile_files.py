"""Paths that lead to no file: pipes that nobody writes to, devices without an end, and files that claim far too much.

Every reader of a path that a person names refuses them in one line, waits for nothing and reads no more than it may.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake import Lake
from datalake.errors import DatalakeError, ImportRefusedError
from datalake.maintenance.import_options import ImportOptions
from datalake.maintenance.importing import import_files
from generator.errors import GeneratorError
from orchestration.corpus.tokenizer_files import chat_template, open_tokenizer
from orchestration.errors import EvaluationError, OrchestrationError
from orchestration.evaluation.problems import read_problems
from orchestration.experiment.config.load import load_experiment
from orchestration.toml_files import read_toml
from trainer.errors import TrainerError
from trainer.foreign import import_folder


def model_folder(path: Path, name: str, lake: Lake) -> None:
    """A folder with a model in it, of which the file ``name`` is the one at ``path``."""
    folder = path.parent / f"model-{name}"
    folder.mkdir(exist_ok=True)
    shape = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    config = {"model_type": "llama", "num_attention_heads": 1, **shape}
    for each in folder.iterdir():
        each.unlink()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(path)
    import_folder(lake, folder)


NAMED = (DatalakeError, GeneratorError, TrainerError, OrchestrationError)
READERS: dict[str, Callable[[Path, Lake], Any]] = {
    "settings": lambda path, _lake: read_toml(path),
    "experiment": lambda path, _lake: load_experiment(path),
    "tokenizer": lambda path, _lake: open_tokenizer(path),
    "chat template": lambda path, _lake: chat_template(path, None, None),
    "problems": lambda path, _lake: read_problems(path),
    "import": lambda path, lake: import_files(lake, "x", [path], ImportOptions()),
    "model's config": lambda path, lake: model_folder(path, "config.json", lake),
    "model's weights": lambda path, lake: model_folder(path, "model.safetensors", lake),
    "model's index": lambda path, lake: model_folder(path, "model.safetensors.index.json", lake),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused(tmp_path: Path, reader: str) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "gone"):
        with pytest.raises(Exception, match=r"regular file|cannot be read|No such file") as raised:
            READERS[reader](path, lake)
        assert isinstance(raised.value, NAMED), raised.value
        assert "\n" not in str(raised.value)


def test_a_small_file_that_claims_millions_of_values_is_refused(tmp_path: Path) -> None:
    """One list of three million equal numbers takes some kB; a thousand million would take hardly more."""
    path = tmp_path / "small.parquet"
    table = pa.table({"tokens": pa.array([[0] * 3_000_000], pa.list_(pa.int32()))})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 60_000
    lake = Lake.open(str(tmp_path / "lake"))
    with pytest.raises(ImportRefusedError, match=r"claims 3,000,000 values in .* bytes, which cannot hold as many"):
        import_files(lake, "x", [path], ImportOptions(seq_len=8))


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, "1" * 5000, '{"prompt": ' + "[" * 100_000 + "}", "\x00", "null", '{"prompt": 1}', '"\\ud800"'],
    ids=["deep", "digits", "deep field", "nul", "null", "number", "text"],
)
def test_problems_that_are_none_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(EvaluationError, match=r"p.jsonl, line 1: ") as raised:
        read_problems(tmp_path / "p.jsonl")
    assert len(str(raised.value)) < 2000
