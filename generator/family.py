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


MAX_NAMED = 8  # problems in one message

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
        raise SpecError(f"family: {_shown(values['family'])} is unknown; allowed are {', '.join(FAMILIES)}; choose one")
    try:
        return FAMILIES[values["family"]].spec.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = [_line(problem) for problem in problems[:MAX_NAMED]]
        if len(problems) > MAX_NAMED:
            lines.append(f"and {len(problems) - MAX_NAMED} more problems")
        raise SpecError("; ".join(lines)) from error


def _shown(value: Any) -> str:
    """What was found, in no more characters than a line has room for."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _line(problem: Mapping[str, Any]) -> str:
    """One problem that pydantic found as `field: value, what is allowed, what to do`."""
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        place = ".".join(str(part)[:80] for part in problem["loc"])
        return message if not place or message.startswith(place) else f"{place}: {message}"
    place = ".".join(str(part)[:80] for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown field (found {_shown(problem['input'])}); check the spelling or remove it"
    allowed = problem["msg"].replace("Input should be", "allowed is").replace("\n", " ")
    return f"{place}: {_shown(problem['input'])} is out of range or of the wrong type; {allowed}; change `{place}`"
