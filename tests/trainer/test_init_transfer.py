"""Weights are drawn by name, so what a transfer does not touch is bit-equal to the scratch arm."""

import pytest
import torch

from trainer.config import ModelConfig
from trainer.errors import TransferError
from trainer.model import Llama
from trainer.transfer import transfer

VOCABULARY = {"model.embed_tokens.weight", "lm_head.weight"}
GOLDEN_UP_PROJ = [0.3403383493423462, -0.037844911217689514, 0.2907681465148926, 0.14192260801792145]


def make(seed: int, vocab: int = 40, **overrides: object) -> Llama:
    return Llama(ModelConfig.model_validate({"depth": 2, "dim": 16, "heads": 2, **overrides}).shape(vocab), seed)


def moved(before: Llama, after: Llama) -> set[str]:
    return {name for name, weight in before.state_dict().items() if not torch.equal(weight, after.state_dict()[name])}


def test_init_is_a_function_of_seed_and_name_alone() -> None:
    state_before = torch.get_rng_state()
    small, large = make(7, vocab=40).state_dict(), make(7, vocab=90).state_dict()
    assert torch.equal(torch.get_rng_state(), state_before)
    for name, weight in small.items():
        assert torch.equal(weight, large[name][:40] if name in VOCABULARY else large[name]), name
    assert {name for name in small if not torch.equal(small[name], make(8).state_dict()[name])} == {
        name for name in small if "norm" not in name
    }


def test_init_scales() -> None:
    state = Llama(ModelConfig(depth=2, dim=256).shape(500), 0).state_dict()
    assert state["model.layers.0.self_attn.q_proj.weight"].std().item() == pytest.approx(1 / 16, rel=0.02)
    assert state["model.layers.1.self_attn.o_proj.weight"].std().item() == pytest.approx(1 / 32, rel=0.02)
    assert state["lm_head.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["model.norm.weight"].eq(1).all()


def test_init_golden() -> None:
    """The draw must not change with the version of anything."""
    first = make(0).state_dict()["model.layers.0.mlp.up_proj.weight"][0, :4]
    assert first.tolist() == GOLDEN_UP_PROJ


def test_attn_moves_only_attention() -> None:
    source, scratch, target = make(1, vocab=90), make(2), make(2)
    names = transfer(target, source.state_dict(), "attn")
    assert names == [
        f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in range(2) for part in ("q", "k", "v", "o")
    ]
    assert moved(scratch, target) == set(names)
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in names)


def test_all_moves_all_but_the_vocabulary() -> None:
    source, scratch, target = make(1, vocab=90), make(2), make(2)
    with torch.no_grad():
        source.model.norm.weight.fill_(3.0)
    names = transfer(target, source.state_dict(), "all")
    assert set(names) == target.state_dict().keys() - VOCABULARY
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in names)
    assert all(torch.equal(target.state_dict()[name], scratch.state_dict()[name]) for name in VOCABULARY)


@pytest.mark.parametrize(
    ("overrides", "what", "says"),
    [
        ({"dim": 32}, "attn", "q_proj.weight is [32, 32] in the source and [16, 16] in the target"),
        ({"kv_heads": 1}, "attn", "k_proj.weight is [8, 16] in the source and [16, 16]"),
        ({"layers": 3}, "attn", "in the source, not in the target"),
        ({"layers": 1}, "all", "in the target, not in the source"),
        ({}, "some", "transfer.what = 'some'"),
    ],
)
def test_misfits_are_refused_and_nothing_moves(overrides: dict, what: str, says: str) -> None:
    target = make(2)
    with pytest.raises(TransferError) as caught:
        transfer(target, make(1, **overrides).state_dict(), what)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert moved(make(2), target) == set()
