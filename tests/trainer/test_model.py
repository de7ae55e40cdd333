"""The model is a causal Llama: same logits as Hugging Face's, no look-ahead, and a loss on the right targets."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from tests.trainer.lake_data import hf_files, open_files
from trainer import hf_layout
from trainer.config import ModelConfig
from trainer.errors import CheckpointError, ConfigError
from trainer.loss import token_losses, token_scores
from trainer.model import Llama, count_parameters
from trainer.rms_norm import rms_norm

VOCAB = 61


def make(seed: int = 0, **overrides: object) -> Llama:
    return Llama(ModelConfig.model_validate({"depth": 2, "dim": 32, "heads": 4, **overrides}).shape(VOCAB), seed)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_dial_derives_every_dimension() -> None:
    shape = ModelConfig(depth=4).shape(1000)
    assert (shape.layers, shape.dim, shape.heads, shape.kv_heads, shape.ffn, shape.head_dim) == (4, 256, 4, 4, 704, 64)


def test_forward_is_the_loss_of_the_next_token() -> None:
    model, x_BT = make(), tokens(3, 17)
    logits_BTV = model.logits(x_BT)
    expected_BT = -logits_BTV.log_softmax(-1)[:, :-1].gather(-1, x_BT[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(model(x_BT), expected_BT)


def test_targets_are_not_off_by_one() -> None:
    """On an alternating sequence a model trained to predict the *next* token wins; one trained on itself or on the
    token after next would see the same token and lose."""
    model = make()
    x_BT = torch.tensor([[3, 7] * 12, [7, 3] * 12])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model(x_BT).mean().backward()
        optimizer.step()
    predicted_BT = model.logits(x_BT).argmax(-1)
    assert torch.equal(predicted_BT[:, 4:-1], x_BT[:, 5:])
    assert not (predicted_BT[:, 4:] == x_BT[:, 4:]).any()


def test_no_position_sees_a_later_token() -> None:
    model, x_BT = make(kv_heads=2), tokens(1, 24)
    changed_BT = x_BT.clone()
    changed_BT[0, 15:] = (changed_BT[0, 15:] + 1) % VOCAB
    a, b = model.logits(x_BT), model.logits(changed_BT)
    torch.testing.assert_close(a[:, :15], b[:, :15])
    assert not torch.allclose(a[:, 15:], b[:, 15:])


def test_grouped_heads_equal_repeated_heads() -> None:
    grouped, full = make(kv_heads=2), make()
    state = grouped.state_dict()
    for name, weight in state.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            state[name] = weight.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(state)
    x_BT = tokens(2, 20)
    torch.testing.assert_close(grouped.logits(x_BT), full.logits(x_BT))


def test_rotation_gradient() -> None:
    """Gradients through the hand-written rotation equal those through the textbook formula."""
    from trainer.model import _Rotate, rope_tables

    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = (table.double() for table in rope_tables(5, 8, 10_000.0, torch.device("cpu")))
    assert torch.autograd.gradcheck(lambda value: _Rotate.apply(value, cos, sin), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_narrow_head_is_rotated_to_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import model

    x = torch.randn(3, 2, 7, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    tables = model.rope_tables(7, 16, 10_000.0, torch.device("cpu"))
    for each in (x.transpose(1, 2).contiguous(), x.transpose(1, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(model, "NARROW_HEAD", 8)
            halves = model._rotate(each, *tables)
        assert torch.equal(model._rotate(each, *tables), halves)


def test_norm_by_hand_equals_torchs_own() -> None:
    """Values, and gradients of input and gain, also where a row is all zeros."""
    x = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x[1, 2] = 0
    gain = torch.rand(6, dtype=torch.float64)
    inputs = (x.requires_grad_(), gain.requires_grad_())
    by_hand, own = rms_norm(*inputs, 1e-5), F.rms_norm(x, (6,), gain, 1e-5)
    torch.testing.assert_close(by_hand, own)
    weights = torch.randn(4, 5, 6, dtype=torch.float64)
    for found, expected in zip(
        torch.autograd.grad((by_hand * weights).sum(), inputs),
        torch.autograd.grad((own * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_tied_head_is_one_tensor() -> None:
    tied = make(tied=True)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert count_parameters(make()) - count_parameters(tied) == VOCAB * 32
    tied(tokens(1, 5)).sum().backward()
    assert tied.lm_head.weight.grad is not None


def test_chunked_loss_equals_whole() -> None:
    hidden_ND, head_VD = torch.randn(50, 16, requires_grad=True), torch.randn(VOCAB, 16, requires_grad=True)
    targets_N = tokens(1, 50)[0]
    whole_N = F.cross_entropy(hidden_ND @ head_VD.T, targets_N, reduction="none")
    whole = torch.autograd.grad(whole_N.sum(), (hidden_ND, head_VD))
    chunked_N = token_losses(hidden_ND, head_VD, targets_N, limit=7 * VOCAB)
    chunked = torch.autograd.grad(chunked_N.sum(), (hidden_ND, head_VD))
    torch.testing.assert_close(chunked_N, whole_N)
    torch.testing.assert_close(chunked, whole)
    losses_N, hits_N = token_scores(hidden_ND, head_VD, targets_N, limit=7 * VOCAB)
    torch.testing.assert_close(losses_N, whole_N.detach())
    assert torch.equal(hits_N, (hidden_ND @ head_VD.T).argmax(-1) == targets_N)


@pytest.mark.parametrize(
    "overrides",
    [{}, {"kv_heads": 2}, {"tied": True}, {"qk_norm": True}, {"heads": 2, "kv_heads": 1, "ffn": 50}],
)
def test_files_reopen_to_the_same_model(overrides: dict) -> None:
    model = make(**overrides)
    files = hf_files(model)
    again = open_files(files[hf_layout.CONFIG], files[hf_layout.WEIGHTS])
    assert again.shape == model.shape
    x_BT = tokens(2, 20)
    assert torch.equal(again.logits(x_BT), model.logits(x_BT))
    assert hf_files(again) == files


@pytest.mark.parametrize("overrides", [{}, {"kv_heads": 2}, {"tied": True}, {"qk_norm": True, "kv_heads": 2}])
def test_logits_equal_transformers(overrides: dict, tmp_path) -> None:
    model = make(**overrides)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    for name, data in hf_files(model).items():
        (tmp_path / name).write_bytes(data)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    x_BT = tokens(2, 50)
    torch.testing.assert_close(theirs(x_BT).logits, model.logits(x_BT), rtol=1e-4, atol=1e-4)
    again = open_files(theirs.config.to_json_string().encode(), (tmp_path / hf_layout.WEIGHTS).read_bytes())
    assert again.shape == model.shape


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_a_model_of_transformers_opens_here(kind: str, tmp_path) -> None:
    """The other direction: weights drawn and saved there."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": False,
        "rope_theta": 5000.0,
    }
    torch.manual_seed(3)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    theirs.save_pretrained(tmp_path)
    ours = open_files((tmp_path / hf_layout.CONFIG).read_bytes(), (tmp_path / hf_layout.WEIGHTS).read_bytes())
    x_BT = tokens(2, 30)
    torch.testing.assert_close(ours.logits(x_BT), theirs(x_BT).logits, rtol=1e-4, atol=1e-4)
    # Without a mask the padding token, which is as good as any other here, would be left out.
    all_of_it = torch.ones_like(x_BT[:, :5])
    longer = theirs.generate(x_BT[:, :5], attention_mask=all_of_it, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(longer[:, 5], ours.logits(x_BT[:, :5])[:, -1].argmax(-1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt2"}, "model_type = 'gpt2'"),
        ({"attention_bias": True}, "only a plain Llama or Qwen3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn'"),
        ({"head_dim": 6}, "head_dim = 6: must be hidden_size / num_attention_heads = 32/4"),
    ],
)
def test_other_architectures_are_refused(change: dict, says: str) -> None:
    config = hf_layout.to_hf_config(make().shape, 64) | change
    with pytest.raises(CheckpointError, match=says):
        hf_layout.from_hf_config(config)


def test_theta_is_found_where_transformers_5_keeps_it() -> None:
    config = hf_layout.to_hf_config(make().shape, 64)
    del config["rope_theta"]
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    assert hf_layout.from_hf_config(config).rope_theta == 77.0


def test_dropout_is_for_training_and_drawn_from_the_step_s_seed() -> None:
    shape, x_BT = ModelConfig(depth=1, dim=32, heads=4).shape(VOCAB), tokens(2, 20)
    plain = make(depth=1)
    model = Llama(shape, 0, dropout=0.5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model(x_BT))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(model.eval()(x_BT), plain(x_BT))


def test_normalised_queries_and_keys_forget_their_scale() -> None:
    model, x_BT = make(qk_norm=True), tokens(2, 20)
    before = model.logits(x_BT)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(8)
    torch.testing.assert_close(model.logits(x_BT), before, rtol=1e-3, atol=1e-3)


@pytest.mark.soak
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"qk_norm": True, "kv_heads": 2, "recompute": True},
        {"window_pattern": "S", "window": 6, "value_embeddings": True, "repeat": {"first": 0, "last": 1}},
    ],
)
def test_compiled_gradients_equal_plain_ones(overrides: dict) -> None:
    """Traced, split and differentiated as torch.compile does, then run by plain kernels; it rotates by the formula."""
    found = []
    for compiled in (False, True):
        config = ModelConfig.model_validate({"depth": 2, "dim": 32, "heads": 4, **overrides})
        model = Llama(config.shape(VOCAB), 0, recompute=config.recompute)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        losses_BT = model(tokens(2, 20))
        losses_BT.sum().backward()
        found.append([losses_BT.detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_learned_positions_are_added_in_place_of_rotation() -> None:
    """Against a plain reference: the table's rows added to the embedding, and queries and keys as they are."""
    model, x_BT = make(learned_positions=20, kv_heads=2), tokens(2, 20)
    shape = model.shape
    x_BTD = model.model.embed_tokens(x_BT) + model.model.embed_positions.weight[:20]
    for layer in model.model.layers:
        normed_BTD, attention = layer.input_layernorm(x_BTD), layer.self_attn
        q, k, v = (
            proj(normed_BTD).view(2, 20, heads, shape.head_dim).transpose(1, 2)
            for proj, heads in ((attention.q_proj, 4), (attention.k_proj, 2), (attention.v_proj, 2))
        )
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = q @ k.transpose(2, 3) / shape.head_dim**0.5 + torch.full((20, 20), -torch.inf).triu(1)
        mixed_BTD = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 20, shape.dim)
        x_BTD = x_BTD + attention.o_proj(mixed_BTD)
        x_BTD = x_BTD + layer.mlp(layer.post_attention_layernorm(x_BTD))
    torch.testing.assert_close(model.logits(x_BT), model.lm_head(model.model.norm(x_BTD)))
    drawn, rotary = make(learned_positions=9).state_dict(), make().state_dict()
    assert drawn.pop("model.embed_positions.weight").shape == (9, 32)
    assert all(torch.equal(drawn[name], rotary[name]) for name in drawn | rotary)


def test_learned_positions_end_where_the_table_does() -> None:
    model = make(learned_positions=8)
    assert model(tokens(1, 9)).shape == (1, 8)
    with pytest.raises(ConfigError, match=r"learned_positions = 8: 9 tokens are to be read; give shorter sequences"):
        model(tokens(1, 10))
    with pytest.raises(ValueError, match=r"rope_theta = 5\.0: learned_positions = 8 takes the place of rotation"):
        ModelConfig(depth=1, learned_positions=8, rope_theta=5.0)


def test_a_model_with_learned_positions_is_written_and_read_under_a_name_of_its_own() -> None:
    for qk_norm in (False, True):
        model = make(learned_positions=12, qk_norm=qk_norm)
        files = hf_files(model)
        assert '"model_type": "morphogen"' in files[hf_layout.CONFIG].decode()
        opened = open_files(files[hf_layout.CONFIG], files[hf_layout.WEIGHTS])
        assert opened.shape == model.shape
        assert torch.equal(opened(tokens(2, 12)), model(tokens(2, 12)))
    with pytest.raises(ValueError, match="morphogen"):
        transformers.AutoConfig.for_model("morphogen")


def test_configurations_without_learned_positions_say_nothing_of_them() -> None:
    """A run's identity is its configuration's digest, also of runs that were begun before there were any."""
    assert "learned_positions" not in ModelConfig(depth=1).model_dump()
    assert "learned_positions" not in ModelConfig(depth=1).shape(9).model_dump()
    assert ModelConfig(depth=1, learned_positions=4).model_dump()["learned_positions"] == 4
