"""Weights of a model of ours into anybody's module: what ``transfer`` in a training config does, without our loop.

Our tensors have Hugging Face's Llama names, so that a ``LlamaForCausalLM`` or ``Qwen3ForCausalLM`` needs no map. A
module with names of its own says with ``names`` where each of our tensors goes; one of its tensors may take several
of ours, one below the other, as a joint projection of queries, keys and values does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from datalake import Lake
from trainer.errors import CheckpointError, TransferError
from trainer.foreign import open_weights
from trainer.heads import heads_of
from trainer.published import Weights
from trainer.transfer import transferable

Rows: TypeAlias = tuple[int, int]
"""First row and the row after the last."""
Place: TypeAlias = str | tuple[str, Rows]
"""A tensor of the module, or rows of one."""


def transfer(
    source: str | Path | Mapping[str, Tensor],
    module: nn.Module,
    what: str = "attn",
    *,
    lake: Lake | str | None = None,
    names: Callable[[str], Place] | Mapping[str, Place] | None = None,
) -> list[str]:
    """Copy the tensors of ``what`` from ``source`` into ``module``, in place; returns the module's names, in order.

    ``source`` is a published model ("NAME@V", with ``lake``: the lake or its address), a folder as `morphogen models
    export` writes one, or a mapping of our names to tensors. ``what`` is "attn", "attn+norm", "mlp", "all" (without
    embedding and head) or "all+embed" (with them), as in ``[transfer]``. ``names`` gives for each of our names the
    module's, or (name, (first row, row after the last)) of a tensor that holds several of ours; by default they are
    equal. Tensors keep the module's dtype and device.

    TransferError, before anything is changed, when a tensor is missing or differs in shape, or two go to one place;
    and what the lake raises.
    """
    if heads_of(what) is not None:
        raise TransferError(f"transfer {what!r}: single heads move in a training's [transfer] alone; give 'attn' here")
    held = dict(module.named_parameters(remove_duplicate=False))
    places = names if callable(names) else (names.__getitem__ if names is not None else str)
    moved: list[tuple[str, Tensor, Tensor]] = []
    taken: dict[int, str] = {}
    for name, tensor in _tensors(source, lake):
        if not transferable(name, what):
            continue
        try:
            place = places(name)
        except KeyError:
            raise TransferError(f"transfer {what!r}: names has nothing for {name}; add where it goes") from None
        target_name, rows = (place, None) if isinstance(place, str) else place
        if target_name not in held:
            raise TransferError(
                f"transfer {what!r}: {name} goes to {target_name}, which the module does not have; it has "
                f"{', '.join(sorted(held)[:6])}, …: give a map of names"
            )
        whole = held[target_name].data
        target = whole if rows is None else whole[slice(*rows)]
        if target.shape != tensor.shape:
            raise TransferError(
                f"transfer {what!r}: {name} is {list(tensor.shape)}, its place {target_name} is {list(target.shape)}; "
                "give both models the same width, heads and layers"
            )
        if target.data_ptr() in taken:
            raise TransferError(f"transfer {what!r}: {taken[target.data_ptr()]} and {name} both go to {target_name}")
        taken[target.data_ptr()] = name
        moved.append((target_name, target, tensor))
    if not moved:
        raise TransferError(f"transfer {what!r}: the source has no such tensor")
    with torch.no_grad():
        for _, target, tensor in moved:
            target.copy_(tensor)
    order = {name: number for number, name in enumerate(held)}
    return sorted({name for name, _, _ in moved}, key=order.__getitem__)


def joint_attention(layers: int, width: int, prefix: str = "transformer.h") -> dict[str, Place]:
    """A map of names for blocks whose queries, keys and values are one matrix of 3 · ``width`` rows.

    This is how nanoGPT names them: ``PREFIX.i.attn.c_attn.weight`` and ``PREFIX.i.attn.c_proj.weight``. Only for
    "attn", and for models with as many key heads as query heads. ``layers`` and ``width`` are the model's.
    """
    places: dict[str, Place] = {}
    for layer in range(layers):
        ours, theirs = f"model.layers.{layer}.self_attn", f"{prefix}.{layer}.attn"
        for number, kind in enumerate("qkv"):
            places[f"{ours}.{kind}_proj.weight"] = f"{theirs}.c_attn.weight", (number * width, (number + 1) * width)
        places[f"{ours}.o_proj.weight"] = f"{theirs}.c_proj.weight"
    return places


def _tensors(source: str | Path | Mapping[str, Tensor], lake: Lake | str | None) -> Iterator[tuple[str, Tensor]]:
    if isinstance(source, Mapping):
        yield from source.items()
    elif lake is not None:
        opened = Lake.open(lake) if isinstance(lake, str) else lake
        yield from Weights(opened, opened.models.get(str(source)))
    else:
        yield from _folder(Path(source))


def _folder(folder: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        yield from open_weights(folder, {path.name for path in folder.iterdir()}).items()
    except (OSError, CheckpointError) as error:
        raise TransferError(
            f"source {str(folder)!r} cannot be read ({error}): give a folder with model.safetensors, or NAME@V and lake"
        ) from error
