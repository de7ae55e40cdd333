"""Weights are drawn by name, so what a transfer does not touch is bit-equal to the scratch arm."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import ModelConfig, parse_config
from trainer.errors import ConfigError, TransferError
from trainer.model import Llama
from trainer.transfer import transfer

VOCABULARY = {"model.embed_tokens.weight", "lm_head.weight"}
GOLDEN_UP_PROJ = [0.3403383493423462, -0.037844911217689514, 0.2907681465148926, 0.14192260801792145]


def make(seed: int, vocab: int = 40, **overrides: object) -> Llama:
    return Llama(ModelConfig.model_validate({"depth": 2, "dim": 16, "heads": 2, **overrides}).shape(vocab), seed)


def moved(before: Llama, after: Llama) -> set[str]:
    return {name for name, weight in before.state_dict().items() if not torch.equal(weight, after.state_dict()[name])}


def move(target: Llama, source: Llama, what: str, seed: int) -> list[str]:
    state = dict(source.named_parameters())  # as published: a tied head is one tensor with the embedding
    return transfer(target, {name: tuple(tensor.shape) for name, tensor in state.items()}, state.items(), what, seed)


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
    names = move(target, source, "attn", 2)
    assert names == [
        f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in range(2) for part in ("q", "k", "v", "o")
    ]
    assert moved(scratch, target) == set(names)
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in names)


def test_all_moves_all_but_the_vocabulary() -> None:
    source, scratch, target = make(1, vocab=90), make(2), make(2)
    with torch.no_grad():
        source.model.norm.weight.fill_(3.0)
    names = move(target, source, "all", 2)
    assert set(names) == target.state_dict().keys() - VOCABULARY
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in names)
    assert all(torch.equal(target.state_dict()[name], scratch.state_dict()[name]) for name in VOCABULARY)


@pytest.mark.parametrize("tied", [False, True])
def test_all_and_embedding_is_the_whole_model(tied: bool) -> None:
    source, target = make(1, tied=tied), make(2, tied=tied)
    names = move(target, source, "all+embed", 2)
    assert set(names) == {name for name, _ in target.named_parameters()}
    assert moved(source, target) == set()


@pytest.mark.parametrize(
    ("overrides", "what", "says"),
    [
        ({"dim": 32}, "attn", "q_proj.weight is [32, 32] in the source and [16, 16] in the target"),
        ({"kv_heads": 1}, "attn", "k_proj.weight is [8, 16] in the source and [16, 16]"),
        ({"layers": 3}, "attn", "in the source, not in the target"),
        ({"layers": 1}, "all", "in the target, not in the source"),
        ({"vocab": 90}, "all+embed", "embed_tokens.weight has 90 words in the source and 40 in the target"),
        ({"tied": True}, "all+embed", "lm_head.weight is in the target, not in the source"),
        ({}, "some", "transfer.what = 'some'"),
    ],
)
def test_misfits_are_refused_and_nothing_moves(overrides: dict, what: str, says: str) -> None:
    target = make(2)
    with pytest.raises(TransferError) as caught:
        move(target, make(1, **overrides), what, 2)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert moved(make(2), target) == set()


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("attn+norm", ("self_attn", "norm")),
        ("mlp", ("gate_proj", "up_proj", "down_proj")),
        ("none", ()),
    ],
)
def test_each_vocabulary_of_parts_moves_itself_alone(what: str, parts: tuple[str, ...]) -> None:
    source, scratch, target = make(1, vocab=90), make(2), make(2)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.5)
    names = move(target, source, what, 2)
    assert set(names) == {name for name in scratch.state_dict() if any(part in name for part in parts)}
    assert moved(scratch, target) == set(names)
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in names)


def test_mlp_moves_between_models_whose_attention_differs() -> None:
    names = move(make(2), make(1, kv_heads=1), "mlp", 2)
    assert len(names) == 6


def test_stats_keeps_mean_and_spread_and_nothing_else() -> None:
    source, target = make(1, dim=64, vocab=90), make(2, dim=64)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(3).add_(0.25)
    names = move(target, source, "stats", 2)
    assert set(names) == target.state_dict().keys() - VOCABULARY
    for name in names:
        found, origin = target.state_dict()[name], source.state_dict()[name]
        count, mean, spread = found.numel(), origin.mean().item(), origin.std().item()
        assert found.mean().item() == pytest.approx(mean, abs=5 * spread / count**0.5 + 1e-6)
        assert found.std().item() == pytest.approx(spread, rel=5 / count**0.5, abs=1e-6)
        if found.ndim == 2:
            both = torch.stack([found.flatten(), origin.flatten()])
            assert abs(torch.corrcoef(both)[0, 1]) < 5 / count**0.5
    again = make(2, dim=64)
    move(again, source, "stats", 2)
    assert moved(again, target) == set()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_head_moves_alone(data: st.DataObject) -> None:
    """What the target's heads read and write is each head's own: the source's where it moved, else as it was drawn."""
    heads = data.draw(st.sampled_from([2, 4]))
    kv_heads = data.draw(st.sampled_from([each for each in (1, 2, 4) if heads % each == 0]))
    pairs = data.draw(st.sets(st.tuples(st.integers(0, 1), st.integers(0, heads - 1)), min_size=1))
    norms = data.draw(st.booleans())
    options = {"heads": heads, "kv_heads": kv_heads, "dim": 16, "qk_norm": data.draw(st.booleans())}
    source, scratch, target = make(1, vocab=90, **options), make(2, **options), make(2, **options)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.5)
    names = move(target, source, "head-" + "+".join(f"{a}.{b}" for a, b in sorted(pairs)) + "+norm" * norms, 2)
    own = 16 // heads
    for name, now in target.state_dict().items():
        before, given_ = scratch.state_dict()[name], source.state_dict()[name]
        expected = before.clone()
        if name.endswith("norm.weight") and norms:
            expected = given_
        for layer, head in pairs:
            rows = slice(head * own, (head + 1) * own)
            group = head // (heads // kv_heads)
            if name == f"model.layers.{layer}.self_attn.q_proj.weight":
                expected[rows] = given_[rows]
            if name == f"model.layers.{layer}.self_attn.o_proj.weight":
                expected[:, rows] = given_[:, rows]
            if name.startswith(f"model.layers.{layer}.self_attn.") and name.endswith(
                ("k_proj.weight", "v_proj.weight")
            ):
                rows = slice(group * own, (group + 1) * own)
                expected[rows] = given_[rows]
        assert torch.equal(now, expected), name
    assert moved(scratch, target) == set(names)


def test_all_heads_are_attention() -> None:
    source, one, other = make(1), make(2), make(2)
    whole = move(one, source, "attn", 2)
    assert move(other, source, "head-0.0+0.1+1.0+1.1", 2) == whole
    assert moved(one, other) == set()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"what": "head-2.0"}, "head 2.0 is not in a model of 2 layers with 2 heads each; layers are 0 to 1"),
        ({"what": "head-0.2"}, "heads 0 to 1"),
        ({"what": "head-1"}, "transfer.what = 'head-1': moves nothing; allowed are all, all+embed"),
        ({"what": "head-0.0", "freeze_steps": 2}, "freeze_steps = 2: acts on whole tensors"),
        ({"what": "head-0.0", "decay_toward": "source"}, "decay_toward = 'source': acts on whole tensors"),
    ],
)
def test_heads_that_cannot_move_are_refused(fields: dict[str, object], says: str) -> None:
    config: dict[str, object] = {"data": [{"dataset": "d@1"}], "model": {"depth": 2, "dim": 16, "heads": 2}}
    config |= {"steps": 4, "batch_sequences": 2, "transfer": {"source": "m@1", **fields}}
    with pytest.raises(ConfigError) as caught:
        parse_config(config)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
