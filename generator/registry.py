"""The one place that lists families, and the one way from a mapping to a spec.

To add a family, write `families/<name>.py` (a spec model and `simulate`), then add it to the union and the list here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import Field

from generator.families import dyck, eca, iid, lattice, nca, shuffle_dyck, shuffled
from generator.family import FAMILIES, Family, validate_spec

GenerationSpec = Annotated[
    nca.NcaSpec
    | dyck.DyckSpec
    | shuffle_dyck.ShuffleDyckSpec
    | eca.EcaSpec
    | shuffled.ShuffledSpec
    | iid.IidSpec
    | lattice.LatticeSpec,
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
    }
)


def parse_spec(mapping: Mapping[str, Any]) -> GenerationSpec:
    """A frozen spec from plain values (as TOML or JSON give them). SpecError lists every problem on one line."""
    return cast("GenerationSpec", validate_spec(mapping))
