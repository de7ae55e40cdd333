"""Single heads of attention: which rows and columns of a layer's tensors are one head's.

"head-1.0" is head 0 of layer 1, "head-0.2+1.0" two of them, "head-1.0+norm" one and every norm's gain; layers and heads
count from 0. A head is its rows of q, its columns of o, and the rows of k, v and the gate of value embeddings that it
reads, which under grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) other heads of its group read, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer.model_config import ModelShape

WRITTEN = "'head-1.0' (head 0 of layer 1), 'head-0.2+1.0', 'head-1.0+norm'"
PATTERN = re.compile(r"head-\d{1,4}\.\d{1,4}(\+\d{1,4}\.\d{1,4})*(\+norm)?", re.ASCII)
PLACE = re.compile(r"model\.layers\.(\d+)\.self_attn\.(q_proj|k_proj|v_proj|o_proj|value_gate)\.weight")


@dataclass(frozen=True)
class Heads:
    """Pairs of (layer, head), and whether every norm's gain moves with them."""

    pairs: tuple[tuple[int, int], ...]
    norms: bool

    def touches(self, name: str) -> bool:
        """Whether some of tensor ``name`` is one of these heads', or it is a norm's gain that moves."""
        place = PLACE.fullmatch(name)
        if place is None:
            return self.norms and name.endswith("norm.weight")
        return any(layer == int(place[1]) for layer, _ in self.pairs)

    def problem(self, shape: ModelShape) -> str | None:
        """What is wrong where a model of ``shape`` lacks one of them."""
        for layer, head in self.pairs:
            if layer >= shape.layers or head >= shape.heads:
                return (
                    f"head {layer}.{head} is not in a model of {shape.layers} layers with {shape.heads} heads each; "
                    f"layers are 0 to {shape.layers - 1}, heads 0 to {shape.heads - 1}"
                )
        return None

    def places(self, name: str, shape: ModelShape) -> list[tuple[slice, ...]]:
        """What of tensor ``name`` is theirs, as indices: columns of o, rows of all else, the whole of a norm's gain."""
        place = PLACE.fullmatch(name)
        if place is None:
            return [(slice(None),)]
        layer, part = int(place[1]), place[2]
        whole_rows = (slice(None),) if part == "o_proj" else ()
        return [(*whole_rows, _slice(part, head, shape)) for each, head in self.pairs if each == layer]


def heads_of(what: str) -> Heads | None:
    """The heads that a transfer's ``what`` names; None if it names none."""
    if not PATTERN.fullmatch(what):
        return None
    *pairs, last = what.removeprefix("head-").split("+")
    norms = last == "norm"
    return Heads(tuple(_pair(each) for each in (pairs if norms else [*pairs, last])), norms)


def _pair(written: str) -> tuple[int, int]:
    layer, head = written.split(".")
    return int(layer), int(head)


def _slice(part: str, head: int, shape: ModelShape) -> slice:
    if part in ("q_proj", "o_proj"):
        return slice(head * shape.head_dim, (head + 1) * shape.head_dim)
    group = head * shape.kv_heads // shape.heads
    rows = 1 if part == "value_gate" else shape.head_dim
    return slice(group * rows, (group + 1) * rows)
