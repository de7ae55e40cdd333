"""Carrying weights from one model into another: what moves is a set of tensor names, the rest stays as it was drawn.

What has a row for each token (embedding, head, value embeddings) moves with ``all+embed`` alone, between models whose
vocabularies are of one size.

| what | tensors |
| --- | --- |
| ``all`` | everything but embedding, head and value embeddings |
| ``all+embed`` | everything: the published runs that carry it read tokens of one numbering before and after |
| ``attn`` | q, k, v and o of every layer, and the gates of value embeddings |
| ``attn+norm`` | those and every norm's gain |
| ``head-1.0`` | of attention, what one head has (here head 0 of layer 1); see ``trainer.heads`` |
| ``mlp`` | gate, up and down of every layer |
| ``none`` | nothing: a control whose configuration differs from the other arms' in this word alone |
| ``stats`` | ``all``, but only each tensor's mean and spread: a control for what scale alone can do |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.errors import TransferError
from trainer.heads import heads_of
from trainer.init import normal, of_vocabulary
from trainer.model import Llama
from trainer.shards import local, wanted_rows

ATTENTION = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "value_gate.weight")
NORMS = ("norm.weight",)
MLP = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
ENDINGS = {"attn": ATTENTION, "attn+norm": (*ATTENTION, *NORMS), "mlp": MLP, "none": ()}


def transferable(name: str, what: str) -> bool:
    """Whether tensor ``name`` is part of ``what``; see the module's table."""
    if what == "all+embed":
        return True
    if what in ("all", "stats"):
        return not of_vocabulary(name)
    if what in ENDINGS:
        return name.endswith(ENDINGS[what])
    if (heads := heads_of(what)) is not None:
        return heads.touches(name)
    known = ", ".join(map(repr, ENDINGS))
    raise TransferError(
        f"transfer.what = {what!r}: must be 'all', 'all+embed', 'stats', heads as 'head-1.0' or one of {known}"
    )


def transfer(
    model: Llama,
    shapes: Mapping[str, Sequence[int]],
    source: Iterable[tuple[str, Tensor]],
    what: str,
    seed: int,
) -> list[str]:
    """Move the tensors of ``what`` from ``source`` into ``model``, in place; returns their names in model order.

    ``source`` yields every (name, tensor) of the source once, ``shapes`` says beforehand what they will be.

    ``stats`` draws each tensor anew, as a function of (``seed``, name), with the mean and spread it has in ``source``.
    TransferError, before anything is changed, when a tensor is missing on either side or differs in shape.
    """
    heads = heads_of(what)
    if heads is not None and (problem := heads.problem(model.shape)):
        raise TransferError(f"transfer {what!r}: {problem}")
    targets = {name: tensor for name, tensor in model.named_parameters() if transferable(name, what)}
    offered = {name for name in shapes if transferable(name, what)}
    if offered != targets.keys():
        name = min(offered ^ targets.keys())
        side = "source, not in the target" if name in offered else "target, not in the source"
        raise TransferError(
            f"transfer {what!r}: {name} is in the {side}; give both models the same number of layers and parts"
        )
    for name, target in targets.items():
        if tuple(shapes[name]) != tuple(target.shape):
            if of_vocabulary(name) and shapes[name][1] == target.shape[1]:
                raise TransferError(
                    f"transfer {what!r}: {name} has {shapes[name][0]} words in the source and {target.shape[0]} in the "
                    "target; give both models the same model.vocab_size, at least the larger of the two"
                )
            raise TransferError(
                f"transfer {what!r}: {name} is {list(shapes[name])} in the source and "
                f"{list(target.shape)} in the target; give both models the same dim, heads, kv_heads and ffn"
            )
    with torch.no_grad():
        for name, tensor in source if targets else ():
            if name not in targets:
                continue
            if heads is not None:
                _copy_places(tensor, targets[name], heads.places(name, model.shape))
            else:
                rows = slice(*wanted_rows(tensor.shape, targets[name]))
                local(targets[name]).copy_((alike(tensor, seed, name) if what == "stats" else tensor)[rows])
    return list(targets)


def _copy_places(source: Tensor, target: Tensor, places: Iterable[tuple[slice, ...]]) -> None:
    """Copy what ``places`` index of ``source``; of a cut ``target``, what this rank holds."""
    start, stop = wanted_rows(source.shape, target)
    moves = torch.zeros(source.shape, dtype=torch.bool)
    for place in places:
        moves[place] = True
    held, moves = local(target), moves[start:stop].to(target.device)
    held.copy_(torch.where(moves, source[start:stop].to(held), held))


def alike(tensor: Tensor, seed: int, name: str) -> Tensor:
    """A float32 normal draw of the shape, mean and (population) standard deviation of ``tensor``."""
    values = tensor.double()
    drawn = torch.from_numpy(normal(seed, name, tuple(tensor.shape))).double()
    return (values.mean() + values.std(correction=0) * drawn).float()
