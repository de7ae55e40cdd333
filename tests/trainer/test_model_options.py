"""Value embeddings and layers that run again: against a reference in plain sums, alone and with all else there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.lake_data import hf_files, open_files, tiny_config, tiny_lake
from tests.trainer.reference import plain_logits
from trainer import TrainJob, hf_layout, load_metrics, run_training
from trainer.config import ModelConfig
from trainer.epochs import repeats_from
from trainer.errors import CheckpointError, ConfigError, TransferError
from trainer.hardware import flops_per_token
from trainer.layer_order import layer_order
from trainer.model import Llama, count_parameters, parameter_shapes
from trainer.model_config import beyond_llama
from trainer.optim import parameter_groups
from trainer.transfer import transfer, transferable
from trainer.value_embeddings import embedded_layers

VOCAB = 29


def shape_of(**overrides: object) -> Any:
    return ModelConfig.model_validate({"depth": 3, "dim": 48, "heads": 4, **overrides}).shape(VOCAB)


def make(seed: int = 0, **overrides: object) -> Llama:
    """A model with gates that differ from token to token, as training leaves them."""
    model = Llama(shape_of(**overrides), seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("value_gate.weight"):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
            elif name.startswith("model.embed_values"):
                weight.mul_(50)
    return model


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(
    values=st.booleans(),
    layers=st.integers(1, 4),
    again=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 2)),
    pattern=st.sampled_from([None, "S", "SSL"]),
    kv_heads=st.sampled_from([1, 2, 4]),
    qk_norm=st.booleans(),
    tied=st.booleans(),
    learned=st.booleans(),
)
def test_logits_are_the_reference_s(values, layers, again, pattern, kv_heads, qk_norm, tied, learned) -> None:
    repeat = None
    if again is not None:
        first, last = sorted(min(layer, layers - 1) for layer in again[:2])
        repeat = {"first": first, "last": last, "times": again[2]}
    model = make(
        layers=layers,
        value_embeddings=values,
        repeat=repeat,
        window_pattern=pattern,
        window=pattern and 4,
        kv_heads=kv_heads,
        qk_norm=qk_norm,
        tied=tied,
        learned_positions=11 if learned else None,
    )
    x_BT = tokens(2, 11)
    torch.testing.assert_close(model.logits(x_BT), plain_logits(model, x_BT), rtol=2e-4, atol=2e-5)


def test_the_last_layer_and_every_other_one_before_it_has_a_table() -> None:
    assert embedded_layers(shape_of(layers=5, value_embeddings=True)) == [0, 2, 4]
    assert embedded_layers(shape_of(layers=4, value_embeddings=True)) == [1, 3]
    assert embedded_layers(shape_of(layers=4)) == []
    shapes = parameter_shapes(shape_of(layers=2, kv_heads=2, value_embeddings=True))
    assert shapes["model.embed_values.1.weight"] == (VOCAB, 24)
    assert shapes["model.layers.1.self_attn.value_gate.weight"] == (2, 32)
    assert "model.layers.0.self_attn.value_gate.weight" not in shapes


def test_gates_begin_at_one_and_all_else_as_without() -> None:
    drawn, plain = (Llama(shape_of(value_embeddings=on), 3).state_dict() for on in (True, False))
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)
    assert {name for name in drawn if name not in plain} == {
        f"model.{name}.weight"
        for layer in (0, 2)
        for name in (f"embed_values.{layer}", f"layers.{layer}.self_attn.value_gate")
    }
    assert not drawn["model.layers.2.self_attn.value_gate.weight"].any()
    assert drawn["model.embed_values.2.weight"].std().item() == pytest.approx(0.02, rel=0.05)


def test_tables_are_moved_as_embeddings_and_carried_over_with_them_alone() -> None:
    model = make(value_embeddings=True)
    groups = {group.name: group for group in parameter_groups(model, "muon")}
    assert "model.embed_values.0.weight" in groups["embedding"].parameters
    assert (groups["embedding"].rule, groups["embedding"].decayed) == ("adamw", False)
    assert "model.layers.0.self_attn.value_gate.weight" in groups["hidden"].parameters
    whats = ("all", "all+embed", "attn", "attn+norm", "mlp", "none", "stats")
    assert [what for what in whats if transferable("model.embed_values.0.weight", what)] == ["all+embed"]
    assert [what for what in whats if transferable("model.layers.0.self_attn.value_gate.weight", what)] == [
        *("all", "all+embed", "attn", "attn+norm", "stats")
    ]
    source = Llama(ModelConfig(depth=3, dim=48, heads=4, value_embeddings=True).shape(VOCAB + 7), 5)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    moved = transfer(model, parameter_shapes(source.shape), source.named_parameters(), "all", 0)
    after = model.state_dict()
    assert not any(name.startswith("model.embed_") for name in moved)
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("model.embed_"))
    with pytest.raises(TransferError, match=r"has 36 words in the source and 29 in the target"):
        transfer(model, parameter_shapes(source.shape), source.named_parameters(), "all+embed", 0)


def test_the_order_of_layers() -> None:
    shape = shape_of(layers=6, repeat={"first": 2, "last": 3, "times": 2})
    assert layer_order(shape) == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]
    assert layer_order(shape, repeating=False) == [0, 1, 2, 3, 4, 5]
    assert shape_of(repeat={"first": 0, "last": 1, "times": 0}) == shape_of()


def test_a_model_that_does_not_repeat_yet_is_the_one_without() -> None:
    once, again = make(), make(repeat={"first": 1, "last": 1})
    assert count_parameters(once) == count_parameters(again)
    x_BT = tokens(2, 12)
    assert not torch.allclose(once(x_BT), again(x_BT), atol=1e-4)
    again.model.repeating = False
    assert torch.equal(once(x_BT), again(x_BT))


def test_six_flops_for_each_weight_of_a_product_each_time_it_runs() -> None:
    shape = shape_of(value_embeddings=True, window_pattern="S", window=5, repeat={"first": 1, "last": 2, "times": 3})
    sizes = {name: torch.Size(size).numel() for name, size in parameter_shapes(shape).items() if len(size) == 2}
    by_layer = [sum(size for name, size in sizes.items() if f".layers.{layer}." in name) for layer in range(3)]
    head = VOCAB * 48
    assert flops_per_token(shape, 0) == 6 * (by_layer[0] + 4 * by_layer[1] + 4 * by_layer[2] + head)
    assert flops_per_token(shape, 0, repeating=False) == 6 * (sum(by_layer) + head)
    assert flops_per_token(shape, 20) - flops_per_token(shape, 0) == 12 * 48 * (5 + 4 * 5 + 4 * 20)


def test_they_are_written_and_read_under_a_name_of_their_own() -> None:
    model = make(value_embeddings=True, repeat={"first": 0, "last": 1, "times": 2})
    files = hf_files(model)
    assert '"model_type": "morphogen"' in files[hf_layout.CONFIG].decode()
    opened = open_files(files[hf_layout.CONFIG], files[hf_layout.WEIGHTS])
    assert opened.shape == model.shape
    assert torch.equal(opened(tokens(2, 12)), model(tokens(2, 12)))
    assert beyond_llama(model.shape.model_dump()) == "value embeddings and repeated layers"
    assert beyond_llama(shape_of().model_dump()) == ""
    config = hf_layout.read_config(files[hf_layout.CONFIG])
    for change in ({"window": 4}, {"repeat": {"first": 0, "last": 3}}, {"repeat": {"first": 2, "last": 1}}):
        with pytest.raises(CheckpointError, match="must be both or neither, and of layers that are there"):
            hf_layout.from_hf_config({**config, **change})


def test_configurations_without_them_say_nothing_of_them() -> None:
    fields = {*ModelConfig(depth=1).model_dump(), *ModelConfig(depth=1).shape(9).model_dump()}
    assert not {"value_embeddings", "repeat"} & fields
    config = tiny_config(model={"depth": 2, "value_embeddings": True, "repeat": {"first": 0, "last": 1}})
    assert type(config).model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("again", [{"first": 1, "last": 0}, {"first": 0, "last": 3}])
def test_layers_that_are_not_there_are_refused(again: dict) -> None:
    with pytest.raises(ValueError, match=r"repeat: layers . to . of 3; give first and last"):
        shape_of(repeat=again)


def test_a_run_begins_to_repeat_at_its_step_and_publishes_what_repeats(tmp_path) -> None:
    """The curve is the plain run's to the bit until then, and another from the very update on."""
    lake = tiny_lake(tmp_path / "lake")
    again = {"first": 0, "last": 1, "times": 1, "from_fraction": 0.5}
    config = tiny_config(model={"depth": 2, "dim": 16, "heads": 2, "repeat": again}, eval_every=1, publish="again")
    result = run_training(TrainJob(config, lake, "again"), threads=1)
    run_training(TrainJob(tiny_config(eval_every=1), lake, "plain"), threads=1)
    found, plain = (load_metrics(lake, run) for run in ("again", "plain"))
    losses = [(row["loss"], other["loss"]) for row, other in zip(found, plain, strict=True) if "loss" in row]
    assert all(one == other for one, other in losses[:7])
    assert all(one != other for one, other in losses[7:])
    scores = [
        (row["eval"]["held@1"]["loss"], other["eval"]["held@1"]["loss"])
        for row, other in zip(found, plain, strict=True)
        if "eval" in row
    ]
    assert [one == other for one, other in scores] == [True] * 7 + [False] * 7
    shape = hf_layout.from_hf_config(hf_layout.read_config(lake.models.open_file("again@1", hf_layout.CONFIG)))
    assert layer_order(shape) == [0, 1, 0, 1]
    once, twice = flops_per_token(shape, 23, repeating=False), flops_per_token(shape, 23)
    assert result.facts["flops_per_token"] == round((once + twice) / 2)

    short = config.model_copy(update={"steps": 6, "schedule": config.schedule.model_copy(update={"steps": 14})})
    with pytest.raises(ConfigError, match=r"layers would repeat after 7 updates, the run has 6; lower it"):
        run_training(TrainJob(short, lake, "short"), threads=1)
    assert repeats_from(config, 22) == 7
