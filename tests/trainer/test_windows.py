"""Layers that see a window of the row: against masks written down token by token, and never beyond their reach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from tests.trainer.lake_data import hf_files, open_files
from tests.trainer.reference import plain_logits
from trainer import hf_layout
from trainer import model as model_module
from trainer.config import ModelConfig
from trainer.documents import numbered
from trainer.hardware import flops_per_token
from trainer.model import Llama
from trainer.windows import attention_mask, layer_windows

CPU, VOCAB, END = torch.device("cpu"), 29, 28


def make(**overrides: object) -> Llama:
    fields = {"depth": 4, "dim": 32, "heads": 4, "window_pattern": "SSSL", "window": 3, **overrides}
    return Llama(ModelConfig.model_validate(fields).shape(VOCAB), 0)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("pattern", "layers", "letters"),
    [("SSSL", 8, "SSSLSSSL"), ("SSSL", 6, "SSSLSL"), ("S", 3, "SSL"), ("LS", 4, "LSLL"), ("S", 1, "L")],
)
def test_the_pattern_is_repeated_and_the_last_layer_is_long(pattern: str, layers: int, letters: str) -> None:
    shape = ModelConfig(depth=layers, window_pattern=pattern, window=5).shape(9)
    assert layer_windows(shape) == [5 if letter == "S" else None for letter in letters]
    assert layer_windows(ModelConfig(depth=2).shape(9)) == [None, None]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 14), st.booleans())
def test_a_mask_is_what_it_says_of_every_pair(row: list[int], window: int, by_document: bool) -> None:
    documents_BT = torch.tensor([row]).cumsum(1)
    found = attention_mask(len(row), CPU, documents_BT if by_document else None, window)
    for query in range(len(row)):
        for key in range(len(row)):
            seen = 0 <= query - key < window
            if by_document:
                seen &= bool(documents_BT[0, query] == documents_BT[0, key])
            assert seen == (key <= query if found is None else bool(found[0, 0, query, key]))


@pytest.mark.parametrize("overrides", [{}, {"kv_heads": 2, "qk_norm": True}, {"learned_positions": 20}])
def test_logits_are_those_of_masks_written_down(overrides: dict) -> None:
    model, x_BT = make(**overrides), tokens(2, 20)
    torch.testing.assert_close(model.logits(x_BT), plain_logits(model, x_BT), rtol=1e-4, atol=1e-5)
    whole = make(**overrides, window=20)
    assert not torch.allclose(model.logits(x_BT), whole.logits(x_BT), atol=1e-3)
    plain = make(**overrides, window_pattern=None, window=None)
    assert torch.equal(whole.logits(x_BT), plain.logits(x_BT)), "a window as long as the row is none"


def test_short_layers_reach_no_further_than_their_windows_together() -> None:
    """With the long last layer made short, four windows of 3 reach 8 tokens back and not a ninth."""
    model = make()
    model.model.windows[-1] = 3
    x_BT = tokens(1, 20)
    before = model.logits(x_BT)
    changed_BT = x_BT.clone()
    changed_BT[0, 5] = (changed_BT[0, 5] + 1) % VOCAB
    after = model.logits(changed_BT)
    assert torch.equal(before[0, 5 + 9 :], after[0, 5 + 9 :])
    assert torch.equal(before[0, :5], after[0, :5])
    assert all(not torch.equal(before[0, at], after[0, at]) for at in range(5, 5 + 9))


def test_windows_stay_within_documents() -> None:
    row_BT = torch.cat([torch.full((1, 1), END), tokens(1, 9) % END, torch.full((1, 1), END), tokens(1, 9) % END], 1)
    other_BT = row_BT.clone()
    other_BT[0, :10] = 1 + torch.arange(10) % 5
    model = make()
    first, second = (model(each_BT, numbered(each_BT, END)) for each_BT in (row_BT, other_BT))
    assert torch.equal(first[0, 10:], second[0, 10:])
    assert not torch.allclose(first, model(row_BT), atol=1e-3)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_the_blocks_for_a_gpu_attend_as_the_mask_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention interpreted on the CPU, with the blocks that a GPU would compute."""
    length, window = 200, 37

    def attends(_b, _head, query, key):
        return (query >= key) & (query - key < window)

    blocks = create_block_mask(attends, None, None, length, length, device="cpu")
    monkeypatch.setattr(model_module, "_compiled_flex", lambda: model_module.flex_attention)
    model = make()
    rope = model.model._rope_for(length, torch.zeros(1))
    x_BTD = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(0))
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        mask = attention_mask(length, CPU, None, window)
        torch.testing.assert_close(attention(x_BTD, rope, blocks), attention(x_BTD, rope, mask))


def test_recomputed_gradients_are_the_same() -> None:
    found = []
    for recompute in (False, True):
        model = Llama(make().shape, 0, recompute=recompute)
        model(tokens(2, 20)).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_attention_costs_what_its_windows_see() -> None:
    shape = make(window=10).shape
    assert flops_per_token(shape, 100) - flops_per_token(shape, 0) == 12 * 32 * (3 * 10 + 100)
    assert flops_per_token(shape, 8) - flops_per_token(shape, 0) == 12 * 32 * 4 * 8


def test_they_are_written_read_and_left_out_of_records_that_have_none() -> None:
    model = make()
    files = hf_files(model)
    assert '"model_type": "morphogen"' in files[hf_layout.CONFIG].decode()
    opened = open_files(files[hf_layout.CONFIG], files[hf_layout.WEIGHTS])
    assert opened.shape == model.shape
    assert torch.equal(opened(tokens(2, 12)), model(tokens(2, 12)))
    assert not {"window", "window_pattern"} & {
        *ModelConfig(depth=1).model_dump(),
        *ModelConfig(depth=1).shape(9).model_dump(),
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"window_pattern": "SL"}, "window_pattern = 'SL': needs window; give both or neither"),
        ({"window": 4}, "window = 4: needs window_pattern; give both or neither"),
        ({"window_pattern": "LL", "window": 4}, "should match pattern"),
        ({"window_pattern": "SL", "window": 0}, "greater than or equal to 1"),
    ],
)
def test_halves_of_it_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ModelConfig(depth=1, **fields)
