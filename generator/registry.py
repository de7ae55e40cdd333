"""The one place that lists families, and the one way from a mapping to a spec.

To add a family, write `families/<name>.py` (a spec model and `simulate`), then add it to the union and the list here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import numpy as np
from pydantic import Field

from generator.families import (
    arithmetic,
    dyck,
    eca,
    iid,
    lattice,
    linear_function,
    linear_rnn,
    markov,
    nca,
    needle,
    procedural,
    shuffle_dyck,
    shuffled,
)
from generator.family import FAMILIES, Family, validate_spec
from generator.spec import BaseSpec

GenerationSpec = Annotated[
    nca.NcaSpec
    | dyck.DyckSpec
    | shuffle_dyck.ShuffleDyckSpec
    | eca.EcaSpec
    | shuffled.ShuffledSpec
    | iid.IidSpec
    | lattice.LatticeSpec
    | linear_rnn.LinearRnnSpec
    | procedural.ProceduralSpec
    | markov.MarkovSpec
    | needle.NeedleSpec
    | arithmetic.ArithmeticSpec
    | linear_function.LinearFunctionSpec,
    Field(discriminator="family"),
]
FAMILIES.update(
    {
        "nca": Family(nca.NcaSpec, nca.simulate),
        "dyck": Family(dyck.DyckSpec, dyck.simulate),
        "shuffle-dyck": Family(shuffle_dyck.ShuffleDyckSpec, shuffle_dyck.simulate),
        "eca": Family(eca.EcaSpec, eca.simulate),
        "shuffled": Family(shuffled.ShuffledSpec, shuffled.simulate),
        "iid": Family(iid.IidSpec, iid.simulate),
        "lattice": Family(lattice.LatticeSpec, lattice.simulate),
        "linear-rnn": Family(linear_rnn.LinearRnnSpec, linear_rnn.simulate),
        "procedural": Family(procedural.ProceduralSpec, procedural.simulate),
        "markov": Family(markov.MarkovSpec, markov.simulate),
        "needle": Family(needle.NeedleSpec, needle.simulate),
        "arithmetic": Family(arithmetic.ArithmeticSpec, arithmetic.simulate),
        "linear-function": Family(linear_function.LinearFunctionSpec, linear_function.simulate),
    }
)


TASKS = tuple(name for name, family in FAMILIES.items() if family.spec.answer_mask is not BaseSpec.answer_mask)
"""Families whose sequences ask for answers."""


def answer_mask(spec: Mapping[str, Any]) -> np.ndarray | None:
    """bool [seq_len]: which tokens of a stored spec's sequences are answers; None where it is not of a task.

    A control made of a task's sequences (``base``) is asked for the same positions. Other families' specs are not
    parsed: a lake may hold some that this version does not know.
    """
    inner: Any = spec
    while isinstance(inner, Mapping) and isinstance(inner.get("base"), Mapping):
        inner = inner["base"]
    return parse_spec(inner).answer_mask() if inner.get("family") in TASKS else None


def parse_spec(mapping: Mapping[str, Any]) -> GenerationSpec:
    """A frozen spec from plain values (as TOML or JSON give them). SpecError lists every problem on one line."""
    return cast("GenerationSpec", validate_spec(mapping))
