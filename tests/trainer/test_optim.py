"""Every parameter is in exactly one group and is moved by that group's rule, rate and decay alone."""

import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.lake_data import tiny_config
from trainer.config import ModelConfig, OptimizerConfig
from trainer.errors import ConfigError
from trainer.model import Llama
from trainer.optim import Optimizer, Rates, parameter_groups
from trainer.rates import rates_at
from trainer.transfer import transferable

ATTENTION = "model.layers.0.self_attn.q_proj.weight"


def make(**overrides: object) -> Llama:
    return Llama(ModelConfig.model_validate({"depth": 1, "dim": 16, "heads": 2, **overrides}).shape(30), 0)


def optimizer_of(model: Llama, what: str = "none", anchors: dict | None = None, **fields: object) -> Optimizer:
    moved = [name for name, _ in model.named_parameters() if transferable(name, what)]
    return Optimizer(model, OptimizerConfig.model_validate(fields), moved, anchors)


def give_gradients(model: Llama, value: float | None = None) -> None:
    for index, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(index)
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = drawn if value is None else torch.full_like(parameter, value)


def copies(model: Llama) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


# A busy machine must not fail a test of pure bookkeeping.
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    rule=st.sampled_from(["adamw", "adamw8bit", "muon", "hybrid"]),
    what=st.sampled_from(["all", "all+embed", "attn", "attn+norm", "mlp", "none", "stats"]),
    tied=st.booleans(),
    qk_norm=st.booleans(),
    learned=st.sampled_from([None, 5]),
    values=st.booleans(),
    layers=st.integers(1, 3),
)
def test_every_parameter_is_in_one_group(
    rule: str, what: str, tied: bool, qk_norm: bool, learned: int | None, values: bool, layers: int
) -> None:
    model = make(tied=tied, qk_norm=qk_norm, learned_positions=learned, value_embeddings=values, layers=layers)
    optimizer = optimizer_of(model, what, name=rule)
    names = [name for group in optimizer.groups for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len({id(parameter) for parameter in held}) == len(names)
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}
    for group in optimizer.groups:
        for name in group.parameters:
            matrix = model.get_parameter(name).ndim == 2
            hidden = matrix and name.startswith("model.layers")
            assert group.transferred == transferable(name, what)
            assert group.decayed == (matrix and "embed" not in name)
            by_muon = hidden and (rule == "muon" or (rule == "hybrid" and not group.transferred))
            assert group.rule == ("muon" if by_muon else "adamw8bit" if rule == "adamw8bit" else "adamw")
    described = optimizer.describe()
    assert sum(group["parameters"] for group in described.values()) == sum(p.numel() for p in model.parameters())


def test_group_names() -> None:
    names = [group.name for group in parameter_groups(make(), "hybrid", [ATTENTION, "model.norm.weight"])]
    assert names == ["hidden", "hidden/transferred", "head", "embedding", "norm", "norm/transferred"]
    assert [group.name for group in parameter_groups(make(tied=True))] == ["hidden", "embedding", "norm"]


@pytest.mark.parametrize("rule", ["adamw", "adamw8bit", "muon"])
def test_only_matrices_decay(rule: str) -> None:
    """With zero gradients a step is the decay alone."""
    model = make()
    before = copies(model)
    optimizer = optimizer_of(model, name=rule, lr=0.1, weight_decay=0.5)
    give_gradients(model, 0.0)
    optimizer.step()
    for name, weight in model.named_parameters():
        decayed = weight.ndim == 2 and "embed" not in name
        torch.testing.assert_close(weight.detach(), before[name] * (0.95 if decayed else 1.0), msg=name)


def test_muon_moves_hidden_matrices_in_every_direction_alike() -> None:
    """Its update is 0.2·sqrt(max(A, B))·lr times a matrix whose singular values are near 1 (but for the least)."""
    model = make(dim=32, heads=4)
    before = copies(model)
    optimizer = optimizer_of(model, name="muon", lr=0.01, weight_decay=0.0)
    give_gradients(model)
    optimizer.step()
    for name, weight in model.named_parameters():
        update = weight.detach() - before[name]
        if name.startswith("model.layers") and weight.ndim == 2:
            spectrum = torch.linalg.svdvals(update) / (0.01 * 0.2 * max(weight.shape) ** 0.5)
            assert 0.6 < spectrum.median() < 1.2, name
            assert spectrum.max() < 1.4, name
        else:  # AdamW's first step is lr in every coordinate
            torch.testing.assert_close(update.abs(), torch.full_like(update, 0.01), rtol=1e-3, atol=1e-6, msg=name)


def test_hybrid_leaves_what_moved_to_adamw() -> None:
    model = make()
    before = copies(model)
    give_gradients(model)
    optimizer_of(model, "attn", name="hybrid", lr=0.01, weight_decay=0.0).step()
    for name, weight in model.named_parameters():
        every_coordinate_alike = (weight.detach() - before[name]).abs().sub(0.01).abs().max() < 1e-4
        by_muon = name.endswith(("gate_proj.weight", "up_proj.weight", "down_proj.weight"))
        assert every_coordinate_alike != by_muon, name


@pytest.mark.parametrize("rule", ["adamw", "adamw8bit", "muon", "hybrid"])
def test_frozen_tensors_are_bit_equal_and_leave_no_trace(rule: str) -> None:
    """What is frozen counts in no gradient norm; the others move as if it were not there."""
    config = tiny_config(
        optimizer={"name": rule, "lr": 0.01}, transfer={"source": "a@1", "what": "attn", "freeze_steps": 2}
    )
    model = make()
    optimizer = optimizer_of(model, "attn", name=rule, lr=0.01)
    before = copies(model)
    for step in range(3):
        optimizer.set_rates(rates_at(config, optimizer.groups, step))
        give_gradients(model)
        optimizer.drop_frozen()
        with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        attention = {name for name in before if transferable(name, "attn")}
        assert with_gradient == (before.keys() - attention if step < 2 else before.keys())
        optimizer.step()
        unmoved = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
        assert unmoved == (attention if step < 2 else set())
        traces = {name for name, _, state in optimizer.states() if state}
        assert traces == with_gradient


@pytest.mark.parametrize("rule", ["adamw", "adamw8bit", "muon", "hybrid"])
def test_decay_toward_the_source(rule: str) -> None:
    """With zero gradients the distance to the source shrinks by rate·decay a step; other matrices go toward zero."""
    model = make()
    anchors = {name: torch.ones_like(weight) for name, weight in model.named_parameters() if transferable(name, "attn")}
    optimizer = optimizer_of(model, "attn", anchors, name=rule, lr=0.1, weight_decay=0.5)
    before = copies(model)
    for _ in range(3):
        give_gradients(model, 0.0)
        optimizer.step()
    for name, weight in model.named_parameters():
        anchor = anchors.get(name, 0.0)
        shrunk = 0.95**3 if weight.ndim == 2 and "embed" not in name else 1.0
        torch.testing.assert_close(weight.detach(), anchor + (before[name] - anchor) * shrunk, msg=name)


def test_rates_meet_groups() -> None:
    config = tiny_config(
        steps=5,
        optimizer={
            "name": "muon",
            "lr": 0.1,
            "weight_decay": 0.4,
            "weight_decay_final_fraction": 0.0,
            "muon": {"lr": 0.02, "momentum": 0.9, "momentum_start": 0.5, "momentum_warmup_steps": 4},
        },
        schedule={"name": "wsd", "warmup_steps": 2, "decay_fraction": 0.0},
        transfer={"source": "a@1", "what": "attn", "freeze_steps": 1, "ramp_steps": 2},
    )
    groups = parameter_groups(make(), "muon", [ATTENTION])
    first, third = rates_at(config, groups, 0), rates_at(config, groups, 2)
    assert first["hidden"] == Rates(0.01, 0.4, 0.5)
    assert first["hidden/transferred"] == Rates(0.0, 0.4, 0.5, frozen=True)
    assert first["head"] == Rates(0.05, 0.4)
    assert third["hidden"] == Rates(0.02, pytest.approx(0.2), pytest.approx(0.7))
    assert third["hidden/transferred"] == third["hidden"]
    assert rates_at(config, groups, 1)["hidden/transferred"].lr == pytest.approx(0.01)


def test_8_bit_moments_follow_adamw() -> None:
    """What 256 levels round away is a few percent of an update."""
    weights = {}
    for rule in ("adamw", "adamw8bit"):
        model = make(dim=64, heads=4)
        optimizer = optimizer_of(model, name=rule, lr=0.01, weight_decay=0.5)
        before = copies(model)
        for _ in range(5):
            give_gradients(model)
            optimizer.step()
        weights[rule] = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    for name, update in weights["adamw"].items():
        assert (weights["adamw8bit"][name] - update).norm() < 0.1 * update.norm(), name
    held = {name: state["exp_avg"] for name, _, state in optimizer.states()}
    in_8_bits = {name for name, moment in held.items() if hasattr(moment, "codes")}
    assert in_8_bits == {name for name, moment in held.items() if moment.numel() >= 4096}
    assert len(in_8_bits) == 7


def test_8_bit_moments_need_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)  # what Python itself does for a package that is not there
    with pytest.raises(ConfigError, match=r"optimizer.name = 'adamw8bit': needs the package torchao, which is not"):
        optimizer_of(make(), name="adamw8bit")
