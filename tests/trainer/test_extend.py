"""Going on: more steps for a finished run, and runs that begin with a model of the lake or of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from datalake import Lake
from datalake.errors import NotFoundError, RunConflictError
from tests.trainer.lake_data import add_dataset, curve, patterned, tiny_config, tiny_lake
from trainer import TrainConfig, TrainJob, load_metrics, parse_config, run_training
from trainer.errors import CheckpointError, ConfigError
from trainer.extend import extend_run
from trainer.foreign import with_init
from trainer.published import open_published
from trainer.rates import learning_rate

# A front-loaded share, averaging and a decay of the decay: all that is a fraction of the run.
WHOLE: dict[str, Any] = {
    "data": [{"dataset": "train@1"}, {"dataset": "held@1", "share": "front_loaded", "until_fraction": 0.5}],
    "average": {"decay": 0.5, "start_fraction": 0.5},
    "optimizer": {"lr": 1e-2, "weight_decay_final_fraction": 0.0},
    "publish": "model",
    "steps": 8,
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = tiny_lake(tmp_path_factory.mktemp("extend") / "lake")
    run_training(TrainJob(tiny_config(**WHOLE), lake, "run"), threads=1)
    return lake


@pytest.mark.parametrize("after", ["constant", "restart"])
def test_an_extended_run_is_the_run_that_was_planned_so_from_the_start(lake: Lake, after: str) -> None:
    run_training(TrainJob(tiny_config(**WHOLE), lake, after), threads=1)
    longer = tiny_config(**{**WHOLE, "steps": 13, "schedule": {"warmup_steps": 2, "after": after}})
    extended = extend_run(lake, after, longer)
    assert (extended.schedule.steps, extended.schedule.after, extended.horizon) == (8, after, 8)
    assert extend_run(lake, after, longer) == extended, "twice is once"
    result = run_training(TrainJob(extended, lake, after), threads=1)
    assert (result.status, result.step) == ("finished", 13)
    planned = run_training(TrainJob(extended, lake, f"planned-{after}"), threads=1)
    assert curve(load_metrics(lake, after)) == curve(load_metrics(lake, f"planned-{after}"))
    assert result.evals == planned.evals
    rates = [learning_rate(extended, step) for step in range(13)]
    assert rates[8:] == ([rates[7]] * 5 if after == "constant" else rates[:5])
    seen = lake.runs.get(after)
    assert [before["result"]["step"] for before in seen.listed("extended")] == [8]
    assert seen.state["config"]["steps"] == 13
    files = [lake.models.get(each.model).files["model.safetensors"] for each in (result, planned) if each.model]
    assert files[0] == files[1]
    assert extend_run(lake, after, longer) == extended, "and when it has finished"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": [{"dataset": "held@1"}]}, r"data\.0\.dataset = 'held@1': run 'run' was trained with 'train@1'"),
        ({"optimizer": {"lr": 1e-3, "weight_decay_final_fraction": 0.0}}, r"optimizer\.lr = 0\.001: .* with 0\.01"),
        ({"steps": 7}, r"steps = 7: run 'run' has 8"),
        ({"schedule": {"warmup_steps": 2, "steps": 9}}, r"schedule\.steps = 9: .* a schedule of 8 steps"),
        ({"batch_sequences": 8}, "batch_sequences = 8: run 'run' was trained with 4"),
    ],
)
def test_what_the_past_contradicts_is_refused(lake: Lake, changes: dict[str, Any], says: str) -> None:
    before = lake.runs.get("run").state
    with pytest.raises(ConfigError, match=says):
        extend_run(lake, "run", tiny_config(**{**WHOLE, "steps": 13, **changes}))
    assert lake.runs.get("run").state == before


def test_without_extending_field_and_both_values_are_named(lake: Lake) -> None:
    for changes, says in (
        ({"steps": 12}, r"steps = 8, not 12.*--extend"),
        ({"data": [{"dataset": "train@1"}]}, r"data\.1 = .*'held@1'.*, not None.*begins from its weights"),
        ({"seed": 3, "steps": 9}, r"seed = 0, not 3; steps = 8, not 9"),
    ):
        with pytest.raises(RunConflictError, match=says):
            run_training(TrainJob(tiny_config(**{**WHOLE, **changes}), lake, "run"), threads=1)
    with pytest.raises(NotFoundError, match="no run named 'nobody'"):
        extend_run(lake, "nobody", tiny_config(**WHOLE))
    lake.runs.start("at-work", "train", tiny_config(**WHOLE).model_dump(mode="json"), {})
    with pytest.raises(RunConflictError, match="run 'at-work' is running: let it end"):
        extend_run(lake, "at-work", tiny_config(**{**WHOLE, "steps": 13}))


def test_configs_of_older_runs_keep_their_digests() -> None:
    fields = tiny_config().model_dump(mode="json")
    assert "init" not in fields
    assert not fields["schedule"].keys() & {"steps", "after"}
    assert parse_config(fields) == tiny_config()


def table(**changes: Any) -> dict[str, Any]:
    fields = tiny_config(steps=2, schedule={}, eval=[]).model_dump(mode="json")
    return {**fields, "model": {}, **changes}


def begun(lake: Lake, run: str, init: str, **changes: Any) -> TrainConfig:
    config = parse_config(with_init(table(init=init, **changes), lake))
    run_training(TrainJob(config, lake, run), threads=1)
    return config


def test_a_run_begins_with_a_model_of_the_lake(lake: Lake) -> None:
    config = begun(lake, "from-model", "model", optimizer={"lr": 1e-30}, publish="again")
    assert config.init == f"model@{lake.models.get('model').version}"
    assert (config.model.depth, config.model.dim, config.model.heads) == (2, 16, 2)
    before, after = open_published(lake, lake.models.get(config.init)), open_published(lake, lake.models.get("again"))
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight)
    assert lake.models.get("again").parents == (config.init,)
    assert lake.runs.get("from-model").state["inputs"]["models"] == [config.init]
    assert begun(lake, "with-dropout", "model@1", model={"dropout": 0.1}).model.dropout == 0.1


def test_init_refusals_name_the_field(lake: Lake) -> None:
    add_dataset(lake, "wide", patterned(8, vocab=60), vocab=60)
    for changes, says in (
        ({"model": {"depth": 3, "dim": 16, "heads": 2}}, r"model\.layers = 3: init = 'model@1' has 2"),
        ({"model": {"rope_theta": 5.0}}, r"model\.rope_theta = 5\.0: init = 'model@1' has 10000"),
        ({"transfer": {"source": "model@1"}}, r"init = 'model@1': brings all weights"),
        ({"data": [{"dataset": "wide@1"}]}, r"model\.vocab_size = 32: the data needs 60"),
    ):
        with pytest.raises(ConfigError, match=says):
            begun(lake, "refused", "model@1", **changes)
    with pytest.raises(NotFoundError, match="no model named 'nobody'"):
        begun(lake, "refused", "nobody@1")


def test_another_tokenizer_s_text_is_refused(lake: Lake) -> None:
    for name, digest in (("ours", "aa"), ("theirs", "bb")):
        lake.store.put_if_absent(f"tokenizers/{digest}.json", b"{}")  # commits make sure of it
        add_dataset(lake, name, patterned(8), kind="text", tokenizer="bpe:32", tokenizer_digest=digest, end_of_text=0)
    begun(lake, "text", "model@1", data=[{"dataset": "ours@1"}], publish="text")
    with pytest.raises(ConfigError, match=r"theirs@1 is tokenised by bpe:32 \(bb\), init = 'text@1' was trained on"):
        begun(lake, "refused", "text@1", data=[{"dataset": "theirs@1"}])
    config = json.loads(lake.models.open_file("text@1", "config.json"))
    assert config["eos_token_id"] == config["bos_token_id"] == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that transformers drew and saved in bfloat16, in three files."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(3)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=40, **sizes)).to(torch.bfloat16)
    path = tmp_path_factory.mktemp("foreign") / "My Model (v2)"
    theirs.save_pretrained(path, max_shard_size="20KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


def test_a_run_begins_with_a_folder_of_transformers(lake: Lake, folder: Path, tmp_path: Path) -> None:
    config = begun(lake, "from-folder", str(folder), optimizer={"lr": 1e-30}, publish="grown")
    assert config.init == "init-My-Model-v2-@1"
    assert begun(lake, "from-folder", str(folder), optimizer={"lr": 1e-30}, publish="grown") == config
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    x_BT = torch.arange(30).view(2, 15)
    torch.testing.assert_close(
        open_published(lake, lake.models.get("grown")).logits(x_BT), theirs(x_BT).logits, rtol=1e-4, atol=1e-4
    )
    single = tmp_path / "single"
    theirs.save_pretrained(single)
    assert begun(lake, "from-single", str(single)).model.dim == 32


def broken(folder: Path, tmp_path: Path, how: str) -> Path:
    """A copy of ``folder`` with one thing wrong."""
    copy = tmp_path / "copy"
    copy.mkdir()
    tensors = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    config = json.loads((folder / "config.json").read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    changes: dict[str, Any] = {
        "0 heads": {"num_attention_heads": 0}, "heads as text": {"num_attention_heads": "4"},
        "no layers": {"num_hidden_layers": None}, "negative": {"intermediate_size": -1},
        "endless": {"num_hidden_layers": 10**9}, "odd head": {"num_attention_heads": 32},
        "kv": {"num_key_value_heads": 3}, "rope": {"rope_parameters": [1]}, "another kind": {"model_type": "gpt2"},
        "another vocabulary": {"vocab_size": 41}, "nan": {"rms_norm_eps": float("nan")},
    }.get(how, {})  # fmt: skip
    if how == "missing tensor":
        del tensors[name]
    elif how == "integers":
        tensors[name] = tensors[name].to(torch.int32)
    elif how == "bias":
        tensors["model.layers.0.mlp.up_proj.bias"] = torch.zeros(48)
    save_file(tensors, copy / "model.safetensors")
    text = json.dumps({**config, **changes})
    (copy / "config.json").write_text({"no JSON": text[:-9], "a list": "[1]", "deep": "[" * 99_999}.get(how, text))
    if how == "no config":
        (copy / "config.json").unlink()
    elif how == "pickle":
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    elif how == "cut":
        (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-99])
    elif how in ("index elsewhere", "index of nothing"):
        (copy / "model.safetensors").rename(copy / "other.safetensors")
        found = {"weight_map": {name: "../copy/other.safetensors"}} if how == "index elsewhere" else {}
        (copy / "model.safetensors.index.json").write_text(json.dumps(found))
    return copy


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("0 heads", "num_attention_heads = 0: "),
        ("heads as text", "num_attention_heads = 4: "),
        ("no layers", "num_hidden_layers = None: "),
        ("negative", "intermediate_size = -1: "),
        ("endless", "num_hidden_layers = 1000000000: "),
        ("odd head", "head_dim = .*32/32, and even"),
        ("kv", "num_key_value_heads = 3: must divide num_attention_heads = 4"),
        ("rope", "rope_parameters = "),
        ("another kind", "model_type = 'gpt2'"),
        ("another vocabulary", r"embed_tokens.weight is .*\[40, 32\], and by config.json floats \[41, 32\]"),
        ("nan", "rms_norm_eps = nan: "),
        ("missing tensor", "up_proj.weight, of which config.json tells, is missing"),
        ("integers", "up_proj.weight is torch.int32"),
        ("bias", "up_proj.bias is in the weights and no part of"),
        ("no JSON", "config.json is not JSON"),
        ("a list", "config.json holds no JSON object"),
        ("deep", "config.json is not JSON"),
        ("no config", "there is no config.json"),
        ("pickle", "pytorch_model.bin is a pickle"),
        ("cut", "model.safetensors is no safetensors file"),
        ("index elsewhere", "names '../copy/other.safetensors', which is not there"),
        ("index of nothing", "is no index of files"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_line(
    lake: Lake, folder: Path, tmp_path: Path, how: str, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        with_init(table(init=str(broken(folder, tmp_path, how))), lake)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("init = ")


def test_a_path_without_a_folder_is_named(lake: Lake, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", Path(__file__)):
        with pytest.raises(ConfigError, match="cannot be read"):
            with_init(table(init=str(path)), lake)
