"""The same weights as files that Hugging Face ``LlamaForCausalLM`` opens: names already agree, so this is a config.

A model with normalised queries and keys is what Hugging Face calls Qwen3 (without sliding windows) and is named so.

The rotary convention (pairs i and i + head_dim/2) is the same too, so no projection is permuted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from trainer.config import ModelShape
from trainer.errors import CheckpointError
from trainer.model import Llama
from trainer.shards import whole

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def to_hf_config(shape: ModelShape, max_length: int) -> dict[str, Any]:
    """The fields of ``LlamaConfig`` (``Qwen3Config`` with QK-norm); ``max_length``: the longest sequence trained on."""
    return {
        "architectures": ["Qwen3ForCausalLM" if shape.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if shape.qk_norm else "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": max_length,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def from_hf_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a ``LlamaConfig`` or ``Qwen3Config`` describes; CheckpointError for a model of another kind."""
    kind = config.get("model_type")
    special = ("attention_bias", "mlp_bias", "rope_scaling", "use_sliding_window")
    if kind not in ("llama", "qwen3") or config.get("hidden_act", "silu") != "silu" or any(map(config.get, special)):
        raise CheckpointError(
            f"model_type = {kind!r}: only a plain Llama or Qwen3 (silu, no biases, no rope_scaling, no sliding window) "
            "is read"
        )
    rope = config.get("rope_parameters") or {}  # where transformers 5 keeps theta
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"rope_type = {rope['rope_type']!r}: only plain rotary positions ('default') are read")
    heads = config["num_attention_heads"]
    if config.get("head_dim", config["hidden_size"] // heads) * heads != config["hidden_size"]:
        raise CheckpointError(
            f"head_dim = {config['head_dim']}: must be hidden_size / num_attention_heads = "
            f"{config['hidden_size']}/{heads}"
        )
    return ModelShape(
        vocab_size=config["vocab_size"],
        layers=config["num_hidden_layers"],
        dim=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        ffn=config["intermediate_size"],
        tied=config.get("tie_word_embeddings", False),
        rope_theta=config.get("rope_theta") or rope.get("rope_theta", 10_000.0),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        qk_norm=kind == "qwen3",
    )


def hf_tensors(model: Llama) -> dict[str, Tensor]:
    """The weights under Hugging Face's names, as the model holds them; a tied head is left out, as there."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not (model.shape.tied and name == "lm_head.weight")
    }


def to_hf_state(model: Llama) -> dict[str, Tensor]:
    """Whole float32 weights on the CPU. Every rank must ask where ranks share the model's rows."""
    return {
        name: whole(tensor.detach()).to("cpu", torch.float32).contiguous() for name, tensor in hf_tensors(model).items()
    }


def from_hf_state(model: Llama, state: Mapping[str, Tensor]) -> None:
    """Load ``to_hf_state``'s tensors into ``model``; CheckpointError naming the first tensor that does not fit."""
    wanted = dict(model.named_parameters())
    if names := wanted.keys() ^ (state.keys() - ({"lm_head.weight"} if model.shape.tied else set())):
        name = min(names)
        raise CheckpointError(
            f"{name}: {'missing from' if name in wanted else 'unknown in'} the weights; check the config"
        )
    for name, parameter in wanted.items():
        if state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{name}: weights are {list(state[name].shape)}, the model is {list(parameter.shape)}; check the config"
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state[name])


def to_files(model: Llama, max_length: int) -> dict[str, bytes]:
    """The files of a model version: equal weights give equal bytes."""
    return {
        WEIGHTS: save(to_hf_state(model), metadata={"format": "pt"}),
        CONFIG: json.dumps(to_hf_config(model.shape, max_length), indent=2, sort_keys=True).encode(),
    }


def from_files(config: bytes, weights: bytes) -> Llama:
    """The model in the files of a model version."""
    model = Llama(from_hf_config(json.loads(config)), seed=0)
    from_hf_state(model, load(weights))
    return model
