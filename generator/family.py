"""The look-up of families: filled by `generator.registry`, read by whatever makes sequences of a spec it was given.

Apart from the registry so that a family that wraps another one (`shuffled`) can look it up without importing them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from generator.errors import SpecError
from generator.spec import BaseSpec, Simulated


@dataclass(frozen=True)
class Family:
    """A family: the model of its specs, and `simulate(spec, seed, ids_N, attempts_N, backend)`."""

    spec: type[BaseSpec]
    simulate: Callable[..., Simulated]


FAMILIES: dict[str, Family] = {}


def family_of(spec: BaseSpec) -> Family:
    """The family whose `simulate` makes this spec's sequences."""
    return FAMILIES[spec.family]


def validate_spec(mapping: Mapping[str, Any]) -> BaseSpec:
    """A frozen spec from plain values (as TOML or JSON give them). SpecError lists every problem on one line."""
    if not isinstance(mapping, Mapping):
        raise SpecError(f"spec: {type(mapping).__name__} is no mapping; give a table of fields")
    values = dict(mapping)
    values.setdefault("family", "nca")
    if values["family"] not in list(FAMILIES):
        raise SpecError(f"family: {values['family']!r} is unknown; allowed are {', '.join(FAMILIES)}; choose one")
    try:
        return FAMILIES[values["family"]].spec.model_validate(values)
    except ValidationError as error:
        raise SpecError("; ".join(_line(problem) for problem in error.errors())) from error


def _line(problem: Mapping[str, Any]) -> str:
    """One problem that pydantic found as `field: value, what is allowed, what to do`."""
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        place = ".".join(str(part) for part in problem["loc"])
        return message if not place or message.startswith(place) else f"{place}: {message}"
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown field (found {problem['input']!r}); check the spelling or remove it"
    allowed = problem["msg"].replace("Input should be", "allowed is").replace("\n", " ")
    return f"{place}: {problem['input']!r} is out of range or of the wrong type; {allowed}; change `{place}`"
