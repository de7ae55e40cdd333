"""The same weights as files that Hugging Face ``LlamaForCausalLM`` opens: names already agree, so this is a config.

A model with normalised queries and keys is what Hugging Face calls Qwen3 (without sliding windows) and is named so.
One with more (``model_config.beyond_llama``) is none of Hugging Face's: its config says ``OURS``, transformers refuses
it by that name, and its weights are a plain state dict that ``open_model`` here loads.

The rotary convention (pairs i and i + head_dim/2) is the same too, so no projection is permuted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from datalake.shards.tokens import MAX_VOCABULARY
from trainer.config import ModelShape
from trainer.errors import CheckpointError
from trainer.model import Llama
from trainer.model_config import MAX_POSITIONS, SHAPE_ADDED, WINDOW_PATTERN, Repeat, beyond_llama
from trainer.shards import Piece, local, wanted_rows
from trainer.tensor_files import arrange, names_of, tensor_bytes

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
OURS = "morphogen"
"""``model_type`` of a model that no class of transformers computes."""


def to_hf_config(shape: ModelShape, max_length: int, end_of_text: int | None = None) -> dict[str, Any]:
    """The fields of ``LlamaConfig`` (``Qwen3Config`` with QK-norm); ``max_length``: the longest sequence trained on.

    ``end_of_text`` is the token at which generation ends; a text also begins after it. None where there is none. It is
    no ``pad_token_id`` here: transformers would never train the row of that one.
    """
    added = {name: value for name, value in shape.model_dump(mode="json").items() if name in SHAPE_ADDED}
    if beyond_llama(added):
        kind = {"architectures": ["MorphogenLlama"], "model_type": OURS, "qk_norm": shape.qk_norm, **added}
    else:
        kind = {
            "architectures": ["Qwen3ForCausalLM" if shape.qk_norm else "LlamaForCausalLM"],
            "model_type": "qwen3" if shape.qk_norm else "llama",
        }
    return {
        **kind,
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
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def from_hf_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a ``LlamaConfig`` or ``Qwen3Config`` describes; CheckpointError for a model of another kind."""
    kind = config.get("model_type")
    special = ("attention_bias", "mlp_bias", "rope_scaling", "use_sliding_window")
    if (
        kind not in ("llama", "qwen3", OURS)
        or config.get("hidden_act", "silu") != "silu"
        or any(map(config.get, special))
    ):
        raise CheckpointError(
            f"model_type = {kind!r}: only a plain Llama or Qwen3 (silu, no biases, no rope_scaling, no sliding window) "
            "is read"
        )
    rope = config.get("rope_parameters") or {}  # where transformers 5 keeps theta
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"{CONFIG}: rope_parameters = {str(rope)[:60]}: must be an object; mend the file")
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"rope_type = {rope['rope_type']!r}: only plain rotary positions ('default') are read")
    try:
        sizes = _Sizes.model_validate({**config, "rope_theta": config.get("rope_theta") or rope.get("rope_theta")})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        found = "missing" if first["type"] == "missing" else f"= {str(first['input'])[:60]}"
        raise CheckpointError(f"{CONFIG}: {field} {found}: {first['msg'].lower()}; mend the file") from error
    heads, kv_heads = sizes.num_attention_heads, sizes.num_key_value_heads or sizes.num_attention_heads
    if (sizes.head_dim or sizes.hidden_size // heads) * heads != sizes.hidden_size or sizes.hidden_size // heads % 2:
        raise CheckpointError(
            f"{CONFIG}: head_dim = {sizes.head_dim}: must be hidden_size / num_attention_heads = "
            f"{sizes.hidden_size}/{heads}, and even"
        )
    if heads % kv_heads:
        raise CheckpointError(
            f"{CONFIG}: num_key_value_heads = {kv_heads}: must divide num_attention_heads = {heads}; mend the file"
        )
    again = sizes.repeat
    if (sizes.window_pattern is None) != (sizes.window is None) or (
        again is not None and not again.first <= again.last < sizes.num_hidden_layers
    ):
        raise CheckpointError(
            f"{CONFIG}: window_pattern = {sizes.window_pattern!r}, window = {sizes.window}, repeat = {again}: must be "
            "both or neither, and of layers that are there; mend the file"
        )
    return ModelShape(
        vocab_size=sizes.vocab_size,
        layers=sizes.num_hidden_layers,
        dim=sizes.hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        ffn=sizes.intermediate_size,
        tied=sizes.tie_word_embeddings,
        rope_theta=sizes.rope_theta or 10_000.0,
        norm_eps=sizes.rms_norm_eps,
        qk_norm=sizes.qk_norm if kind == OURS else kind == "qwen3",
        **({name: getattr(sizes, name) for name in SHAPE_ADDED} if kind == OURS else {}),
    )


class _Sizes(BaseModel):
    """The numbers in a ``config.json``, within what a model of this kind can have."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    vocab_size: int = Field(ge=2, le=MAX_VOCABULARY)
    hidden_size: int = Field(ge=2, le=1 << 17)
    intermediate_size: int = Field(ge=1, le=1 << 20)
    num_hidden_layers: int = Field(ge=1, le=1024)
    num_attention_heads: int = Field(ge=1, le=1 << 14)
    num_key_value_heads: int | None = Field(default=None, ge=1, le=1 << 14)
    head_dim: int | None = Field(default=None, ge=2, le=1 << 14)
    max_position_embeddings: int = Field(default=2048, ge=1, le=1 << 40)
    tie_word_embeddings: bool = False
    rope_theta: float | None = Field(default=None, gt=0)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    qk_norm: bool = False
    learned_positions: int | None = Field(default=None, ge=1, le=MAX_POSITIONS)
    window_pattern: str | None = WINDOW_PATTERN
    window: int | None = Field(default=None, ge=1, le=MAX_POSITIONS)
    value_embeddings: bool = False
    repeat: Repeat | None = None


def read_config(data: bytes) -> dict[str, Any]:
    """The JSON object in a ``config.json``; CheckpointError if it is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{CONFIG} is not JSON ({error}); restore it from a copy") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{CONFIG} holds no JSON object; restore it from a copy")
    return found


def hf_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights under Hugging Face's names, as the model holds them; a Llama's tied head is left out, as there."""
    return {
        name: tensor for name, tensor in model.state_dict().items() if not (name == "lm_head.weight" and _tied(model))
    }


def _tied(model: nn.Module) -> bool:
    return isinstance(model, Llama) and model.shape.tied


def load_pieces(model: nn.Module, pieces: Iterable[Piece]) -> None:
    """Copy weights into ``model`` as they come; CheckpointError naming the first that does not fit, or is missing.

    After an error the model is of no use.
    """
    wanted = dict(model.named_parameters())
    missing = dict.fromkeys(wanted, 0)
    for name, at, total, rows in pieces:
        if name not in wanted:
            if name == "lm_head.weight" and _tied(model):
                continue
            raise CheckpointError(f"{name}: unknown in the weights; check the config")
        target = local(wanted[name].detach())
        if total is None or (total, *rows.shape[1:]) != target.shape:
            raise CheckpointError(
                f"{name}: weights are {[total or 0, *rows.shape[1:]]}, the model is {list(target.shape)}; "
                "check the config"
            )
        target[at : at + len(rows)].copy_(rows)
        missing[name] += len(rows)
    if short := [name for name, rows in missing.items() if rows < local(wanted[name].detach()).shape[0]]:
        raise CheckpointError(f"{min(short)}: missing from the weights; check the config")


def config_file(shape: ModelShape, max_length: int, end_of_text: int | None = None) -> bytes:
    """``config.json`` of a model; equal models give equal bytes."""
    return json.dumps(to_hf_config(shape, max_length, end_of_text), indent=2, sort_keys=True).encode()


def weight_names(names: Collection[str], index: Callable[[], bytes]) -> list[str]:
    """The files that hold a model's weights, in order: one, or those that ``index`` (the bytes of INDEX) names.

    CheckpointError if there are none, or a file that the index names is not among ``names``.
    """
    if WEIGHTS in names:
        return [WEIGHTS]
    if INDEX not in names:
        raise CheckpointError(f"there is neither {WEIGHTS} nor {INDEX}; give a model with safetensors weights")
    try:
        found = sorted(set(json.loads(index())["weight_map"].values()))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{INDEX} is no index of files: {error}; restore it from a copy") from error
    for name in found:
        if name not in names:
            raise CheckpointError(f"{INDEX} names {name!r}, which is not there; restore the file from a copy")
    return found


def layout(tensors: Mapping[str, Tensor], limit: int) -> tuple[dict[str, list[str]], bytes | None]:
    """Which tensors go into which file of at most ``limit`` bytes, and the index, None where one file holds all.

    Hugging Face's layout does not cut a tensor: one that is larger alone has a file to itself.
    """
    files = arrange(tensors, limit, cut=False)
    names = names_of(WEIGHTS.removesuffix(".safetensors"), len(files))
    placed = {name: [part.name for part in parts] for name, parts in zip(names, files, strict=True)}
    if len(placed) == 1:
        return placed, None
    index = {
        "metadata": {"total_size": sum(map(tensor_bytes, tensors.values()))},
        "weight_map": {tensor: name for name, members in placed.items() for tensor in members},
    }
    return placed, json.dumps(index, indent=2, sort_keys=True).encode()


def open_model(config: bytes, weights: Iterable[tuple[str, Tensor]]) -> Llama:
    """The model in the files of a model version, its weights taken one tensor at a time to where they belong."""
    model = Llama(from_hf_config(read_config(config)), seed=None)
    load_pieces(model, whole_pieces(weights))
    return model


def whole_pieces(
    weights: Iterable[tuple[str, Tensor]], like: Callable[[str], Tensor | None] = lambda _name: None
) -> Iterator[Piece]:
    """Whole tensors as the pieces that ``load_pieces`` takes: this rank's rows where ``like(name)`` is cut."""
    for name, tensor in weights:
        if tensor.ndim == 0:
            yield Piece(name, 0, None, tensor)
            continue
        start, stop = wanted_rows(tensor.shape, like(name))
        yield Piece(name, 0, stop - start, tensor[start:stop])
