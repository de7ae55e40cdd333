"""`morphogen models export`: a folder that stands alone, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake import Lake
from orchestration.cli import main
from orchestration.corpus.add import add_corpus
from orchestration.corpus.tokenizers import ByteTokenizer, TextTokenizer, load_tokenizer, train_bpe
from orchestration.evaluation.hf_export import tokenizer_files
from orchestration.experiment.run.collect import check_labels
from tests.trainer.lake_data import open_files, tiny_config, tiny_lake
from trainer import TrainJob, hf_layout, run_training
from trainer.map_datasets import LakeDataset
from trainer.model_config import Repeat


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = tiny_lake(tmp_path_factory.mktemp("export") / "lake")
    run_training(TrainJob(tiny_config(steps=2, eval=[], publish="tiny"), lake, "run"), threads=1)
    return lake


def export(lake: Lake, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["models", "export", *map(str, arguments), "--lake", lake.store.uri])
    code = exit_.value.code or 0
    assert isinstance(code, int)
    return code


def test_the_folder_holds_the_model_and_its_origins(lake: Lake, tmp_path: Path) -> None:
    assert export(lake, "tiny@1", tmp_path / "out", "--format", "hf") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "lineage.json",
        "model.safetensors",
    ]
    model = open_files(*((tmp_path / "out" / name).read_bytes() for name in (hf_layout.CONFIG, hf_layout.WEIGHTS)))
    assert model.shape.layers == 2
    assert json.loads((tmp_path / "out" / "lineage.json").read_text())["model"]["ref"] == "tiny@1"


def test_what_transformers_cannot_compute_says_so_and_how_it_is_loaded(lake: Lake, tmp_path: Path, capsys) -> None:
    model = {"depth": 2, "dim": 16, "learned_positions": 23, "window_pattern": "S", "window": 9}
    model |= {"value_embeddings": True, "repeat": {"first": 0, "last": 1}}
    config = tiny_config(steps=1, eval=[], schedule={}, model=model, publish="own")
    run_training(TrainJob(config, lake, "own"), threads=1)
    out = tmp_path / "out"
    assert export(lake, "own", out) == 0
    said = " ".join(capsys.readouterr().out.split())
    own = "learned positions, attention windows, value embeddings and repeated layers"
    assert f"computes {own}; README.md shows how to load it" in said
    with pytest.raises(ValueError, match="morphogen"):
        transformers.AutoModelForCausalLM.from_pretrained(out)
    code = (out / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    found: dict = {}
    exec(code.replace("path/of/this/folder", str(out)), found)
    assert found["model"].shape.learned_positions == 23
    assert found["model"].shape.repeat == Repeat(first=0, last=1)

    # Rows have one token more than the model has positions: the last is read by no evaluation, nor by this check.
    rows = LakeDataset(lake.uri, "train@1", dtype=torch.int64)
    rows_BT = torch.stack([rows[number] for number in range(4)])
    logits_BTV = found["model"].lm_head(found["model"].model(rows_BT[:, :-1]))
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1).double(), rows_BT[:, 1:].flatten())
    assert check_labels(lake, "own@1", "train@1", 4)["next"] == pytest.approx(float(loss), abs=1e-5)


def test_transformers_opens_it_and_generates(lake: Lake, tmp_path: Path) -> None:
    assert export(lake, "tiny", tmp_path / "out") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt_BT = torch.arange(6)[None]
    longer_BT = model.generate(prompt_BT, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert longer_BT.shape == (1, 11)


def test_the_tokenizer_behind_the_model_comes_with_it(lake: Lake, tmp_path: Path, capsys) -> None:
    """A text prompt in, text out, and the end of text ends it: nothing of ours is needed in the folder."""
    assert export(lake, "tiny", tmp_path / "none") == 0
    assert "no tokenizer: tiny@1 was trained on train@1, which no tokenizer of ours made" in capsys.readouterr().out
    (tmp_path / "text").mkdir()
    for number in range(12):
        (tmp_path / "text" / f"{number}.txt").write_text(f"{number} ways to say größe\n" * 20)
    for kind in ("bytes", "bpe:300"):
        name = kind.replace(":", "-")
        add_corpus(lake, name, tmp_path / "text", tokenizer=kind, seq_len=24, heldout_fraction=0.3)
        config = tiny_config(data=[{"dataset": f"{name}@1"}], steps=1, schedule={}, eval=[], publish=name)
        run_training(TrainJob(config, lake, name), threads=1)
        assert export(lake, name, tmp_path / name) == 0
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        ours = load_tokenizer(lake.store, lake.datasets.manifest(f"{name}@1").source.spec)
        prompt = theirs("say größe", return_tensors="pt").input_ids
        assert prompt[0].tolist() == ours.encode(["say größe".encode()])[0].tolist()
        assert (theirs.eos_token_id, theirs.model_max_length) == (ours.end_of_text, 24)
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        ids = [model.config, model.generation_config, theirs]
        assert [each.eos_token_id for each in ids] == [each.bos_token_id for each in ids] == [ours.end_of_text] * 3
        assert json.loads(lake.models.open_file(f"{name}@1", "config.json"))["eos_token_id"] == ours.end_of_text
        assert isinstance(theirs.decode(model.generate(prompt, max_new_tokens=3)[0]), str)
        assert generates_to_its_end(model, prompt, ours.end_of_text)


def generates_to_its_end(model: Any, prompt: torch.Tensor, end: int) -> bool:
    """Whether generation on the folder's own settings stops once the end is the likeliest token, which it is made."""
    with torch.no_grad():
        state = model(prompt, output_hidden_states=True).hidden_states[-1][0, -1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[end] = state
        out = model.generate(prompt, max_new_tokens=20, do_sample=False)
    return out[0].tolist() == [*prompt[0].tolist(), end]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTokenizer, Any]:
    """A tokenizer of ours and the same one as transformers opens it."""
    ours = ByteTokenizer() if request.param == "bytes" else train_bpe(["don't größer, größte ".encode() * 9], 300)
    folder = tmp_path_factory.mktemp(request.param)
    for name, data in tokenizer_files(ours, 64).items():
        (folder / name).write_bytes(data)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8")) | st.sampled_from(["a <|endoftext|> b", " , don't  \n\n ."]))
def test_any_text_has_the_ids_of_our_corpora(both: tuple[TextTokenizer, Any], text: str) -> None:
    ours, theirs = both
    ids = theirs(text).input_ids
    assert ids == ours.encode([text.encode()])[0].tolist()
    assert theirs.decode(ids) == text


def test_refusals_write_nothing(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(lake, "nobody@1", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    assert export(lake, "tiny@1", tmp_path / "full") == 2
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert "is not an empty folder; give a new one" in capsys.readouterr().err
