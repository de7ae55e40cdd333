"""The levels that factors have, what each needs of an arm, and which combinations of them make one.

The factorial is full, less what is no experiment of its own:

- a factor with nothing to act on has the level ``-`` and is not crossed: ``none`` has no pre-pre-training to optimise,
  transfer or mix; an arm that mixes synthetic data into the language run has no stage before it, so no transfer;
- ``stats`` is a transfer itself, so it is not crossed with ``transfer``, cannot be mixed in, and has no weights to
  decay toward; ``text`` mixed into the text is no mixture;
- ``hybrid`` where nothing is transferred is ``muon``: the cell is there, as the baseline of the transferred hybrids,
  and it is the very run of ``muon``;
- decay ``to-transferred`` where nothing is transferred is ``native`` in the same way; it is ``-`` unless the file also
  crosses decay ``none``, which does act on every arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from orchestration.experiment.result import FACTOR_ORDER, NOT_APPLICABLE

OPTIMIZERS = ("adamw", "muon", "hybrid")

LEVELS: dict[str, tuple[str, ...]] = {
    "pre_optimizer": ("adamw", "muon"),
    "optimizer": OPTIMIZERS,
    "transfer": ("attn", "attn+norm", "mlp", "all", "all+embed", "none"),
    "decay": ("native", "to-transferred", "none"),
    "mixing": ("front", "constant", "annealed"),
}
"""Levels by factor; ``pre`` has BUILT_IN and the names that the file gives to specs."""

BUILT_IN = ("none", "nca", "shuffled", "iid", "dyck", "shuffle-dyck", "stats", "text")

FIRST = {
    "pre_optimizer": "adamw",
    "optimizer": "adamw",
    "transfer": "attn",
    "decay": "native",
    "mixing": "front",
}
"""The level of a factor that the file leaves out."""

Factors = dict[str, str]


def cells(factors: Mapping[str, Sequence[str]]) -> Iterator[Factors]:
    """Every cell that is an arm, in the file's order, each once; all of FACTOR_ORDER are in it."""
    wide = {name: tuple(factors.get(name) or (FIRST[name],)) for name in FACTOR_ORDER}
    seen: list[Factors] = []
    for levels in product(*wide.values()):
        cell = _cell(dict(zip(FACTOR_ORDER, levels, strict=True)), decays=wide["decay"])
        if cell is not None and cell not in seen:
            seen.append(cell)
            yield cell


def staged(cell: Mapping[str, str]) -> bool:
    """Whether a pre-pre-training run comes before the language run."""
    return cell["mixing"] == "front"


def mixed(cell: Mapping[str, str]) -> bool:
    """Whether the language run itself reads synthetic data."""
    return cell["mixing"] in ("constant", "annealed")


def effective_optimizer(cell: Mapping[str, str]) -> str:
    """The language run's optimiser: ``hybrid`` tells transferred matrices apart, and without any it is ``muon``."""
    alone = cell["pre"] == "none" or not staged(cell)
    return "muon" if cell["optimizer"] == "hybrid" and alone else cell["optimizer"]


def transfers_weights(cell: Mapping[str, str]) -> bool:
    """Whether weights are carried over, and not only their statistics."""
    return staged(cell) and cell["pre"] not in ("none", "stats") and cell["transfer"] != "none"


def _cell(cell: Factors, decays: Sequence[str]) -> Factors | None:
    """The cell with ``-`` where a factor has nothing to act on; None where the combination is no experiment."""
    if cell["pre"] == "none":
        cell |= {"pre_optimizer": NOT_APPLICABLE, "transfer": NOT_APPLICABLE, "mixing": NOT_APPLICABLE}
    elif cell["mixing"] != "front":
        if cell["pre"] in ("stats", "text"):
            return None
        cell |= {"pre_optimizer": NOT_APPLICABLE, "transfer": NOT_APPLICABLE}
    elif cell["pre"] == "stats":
        cell |= {"transfer": NOT_APPLICABLE}
    if not transfers_weights(cell):
        if cell["pre"] != "none" and cell["decay"] == "to-transferred":
            return None
        if cell["pre"] == "none" and "none" not in decays and len(decays) > 1:
            cell |= {"decay": NOT_APPLICABLE}
    return cell
