"""Weights of ours in others' modules: Hugging Face's as they are, a module with joint projections through a map."""

import os

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import morphogen
from trainer import hf_layout
from trainer.errors import TransferError
from trainer.published import Weights


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)


class Joint(nn.Module):
    """The names of a GPT whose queries, keys and values are one matrix."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        blocks = [nn.ModuleDict({"attn": Attention(width)}) for _ in range(layers)]
        self.transformer = nn.ModuleDict({"h": nn.ModuleList(blocks)})


def llama(seed: int, **changes: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **(sizes | changes)))


def test_a_published_model_s_attention_goes_into_a_hugging_face_model(whole):
    lake, _ = whole
    version = lake.models.get("tiny@1")
    config = hf_layout.read_config(lake.models.open_file(version, hf_layout.CONFIG))
    torch.manual_seed(0)
    target = LlamaForCausalLM(LlamaConfig(**(config | {"vocab_size": 99})))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    moved = morphogen.transfer("tiny@1", target, "attn", lake=lake)
    assert len(moved) == 4 * config["num_hidden_layers"]
    weights = dict(Weights(lake, version))
    for name, tensor in target.state_dict().items():
        torch.testing.assert_close(tensor, weights[name] if name in moved else before[name], rtol=0, atol=0)


def test_a_folder_is_a_source_too_and_everything_but_the_vocabulary_moves(tmp_path):
    source, target = llama(1), llama(2)
    source.save_pretrained(tmp_path)
    moved = morphogen.transfer(tmp_path, target, "all")
    assert {name for name, _ in target.named_parameters()} - {*moved} == {"model.embed_tokens.weight", "lm_head.weight"}
    for name in moved:
        assert torch.equal(target.get_parameter(name), source.get_parameter(name))


def test_three_matrices_become_one():
    source, target = llama(1), Joint(2, 16)
    moved = morphogen.transfer(source.state_dict(), target, "attn", names=morphogen.joint_attention(2, 16))
    assert len(moved) == 4
    ours = source.model.layers[1].self_attn
    joined = torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight])
    assert torch.equal(target.transformer["h"][1]["attn"].c_attn.weight, joined)
    assert torch.equal(target.transformer["h"][1]["attn"].c_proj.weight, ours.o_proj.weight)


@pytest.mark.parametrize(
    ("target", "what", "names", "says"),
    [
        (llama(2, hidden_size=32), "attn", None, r"is \[16, 16\], its place .* is \[32, 32\].*same width"),
        (llama(2, num_hidden_layers=1), "attn", None, r"model\.layers\.1.* which the module does not have"),
        (llama(2), "attn", {}, r"names has nothing for model\.layers\.0"),
        (llama(2), "attn", lambda _: "model.layers.0.self_attn.q_proj.weight", "both go to"),
        (llama(2), "heads", None, r"what = 'heads': must be"),
        (llama(2), "none", None, "no such tensor"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_moves(target, what, names, says):
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(TransferError, match=says):
        morphogen.transfer(llama(1).state_dict(), target, what, names=names)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_a_source_that_is_none_is_named(tmp_path):
    with pytest.raises(TransferError, match="cannot be read"):
        morphogen.transfer(tmp_path / "nothing", llama(1))
    with pytest.raises(Exception, match="model"):
        morphogen.transfer("nothing@1", llama(1), lake=str(tmp_path / "lake"))


def test_a_folder_with_a_pipe_for_weights_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(TransferError, match="Not a regular file"):
        morphogen.transfer(tmp_path, llama(1))
