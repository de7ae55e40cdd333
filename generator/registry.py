"""The one place that lists families, and the one way from a mapping to a spec.

To add a family, write `families/<name>.py` (a spec model and `simulate`), then add it to FAMILIES and GenerationSpec.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from generator.errors import SpecError
from generator.families import dyck, eca, iid, nca, shuffle_dyck, shuffled
from generator.spec import BaseSpec

GenerationSpec = Annotated[
    nca.NcaSpec | dyck.DyckSpec | shuffle_dyck.ShuffleDyckSpec | eca.EcaSpec | shuffled.ShuffledSpec | iid.IidSpec,
    Field(discriminator="family"),
]
FAMILIES: dict[str, ModuleType] = {
    "nca": nca,
    "dyck": dyck,
    "shuffle-dyck": shuffle_dyck,
    "eca": eca,
    "shuffled": shuffled,
    "iid": iid,
}
_ADAPTER: TypeAdapter[Any] = TypeAdapter(GenerationSpec)


def family_of(spec: BaseSpec) -> ModuleType:
    """The module whose `simulate` makes this spec's sequences."""
    return FAMILIES[spec.family]


def parse_spec(mapping: Mapping[str, Any]) -> GenerationSpec:
    """A frozen spec from plain values (as TOML or JSON give them). SpecError lists every problem on one line."""
    if not isinstance(mapping, Mapping):
        raise SpecError(f"spec: {type(mapping).__name__} is no mapping; give a table of fields")
    values = dict(mapping)
    values.setdefault("family", "nca")
    if values["family"] not in list(FAMILIES):
        raise SpecError(f"family: {values['family']!r} is unknown; allowed are {', '.join(FAMILIES)}; choose one")
    try:
        spec: GenerationSpec = _ADAPTER.validate_python(values)
        return spec
    except ValidationError as error:
        raise SpecError("; ".join(_line(problem) for problem in error.errors())) from error


def _line(problem: Mapping[str, Any]) -> str:
    """One problem that pydantic found as `field: value, what is allowed, what to do`."""
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        place = ".".join(str(part) for part in problem["loc"] if part not in FAMILIES)
        return message if not place or message.startswith(place) else f"{place}: {message}"
    place = ".".join(str(part) for part in problem["loc"] if part not in FAMILIES)
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown field (found {problem['input']!r}); check the spelling or remove it"
    allowed = problem["msg"].replace("Input should be", "allowed is").replace("\n", " ")
    return f"{place}: {problem['input']!r} is out of range or of the wrong type; {allowed}; change `{place}`"
