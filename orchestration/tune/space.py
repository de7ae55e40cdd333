"""What tuning may change: dimensions of a search space, and the spec that a point of it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from generator import GenerationSpec, parse_spec
from orchestration.errors import InvalidRequestError
from trainer.config_model import ConfigModel

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Values = dict[str, float | int]
"""A point of the space: a value by dimension."""

BAND_SCORE = "gzip-int32-v1-normalized"

NAMES = ("band_low", "band_width", "colors", "temperature", "sequences_per_rule", "share")


class Dimension(ConfigModel):
    """The closed interval that a value is taken from: ``int`` in whole steps, ``log`` evenly in its logarithm."""

    kind: Literal["float", "int"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low = {self.low}: above high = {self.high}; swap or change them")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low}: a logarithm needs more than 0; raise it or leave log out")
        return self

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


Space = dict[str, Dimension]

DEFAULT_SPACE: Space = {
    "band_low": Dimension(low=0.05, high=0.7),
    "band_width": Dimension(low=0.1, high=0.5),
    "colors": Dimension(kind="int", low=2, high=6),
    "temperature": Dimension(low=0.0, high=1.0),
    "sequences_per_rule": Dimension(kind="int", low=1, high=32, log=True),
    "share": Dimension(low=0.05, high=0.5),
}
"""Share: the part of the total budget that goes to synthetic tokens."""


def check_space(space: Mapping[str, Dimension]) -> None:
    """Raises InvalidRequestError for a dimension that is none."""
    for name in space:
        if name not in NAMES:
            raise InvalidRequestError(f"space.{name}: no dimension; they are {', '.join(NAMES)}; rename or remove it")
    if not space:
        raise InvalidRequestError(f"space: empty; give at least one of {', '.join(NAMES)}")


def spec_at(base: Mapping[str, Any], values: Mapping[str, float | int]) -> GenerationSpec:
    """``base`` (a spec's JSON) with the values of a point; what a point leaves out stays. Raises SpecError."""
    fields = dict(base)
    for name in ("colors", "temperature", "sequences_per_rule"):
        if name in values:
            fields[name] = values[name]
    if "band_low" in values or "band_width" in values:
        old = base.get("band") or {}
        same = old.get("score") == BAND_SCORE
        low = values.get("band_low", old["low"] if same else 0.25)
        width = values.get("band_width", old["high"] - old["low"] if same else 0.35)
        fields["band"] = {"score": BAND_SCORE, "low": round(low, 4), "high": round(low + width, 4)}
    return parse_spec(fields)


def rounded(values: Mapping[str, Any]) -> Values:
    """The values as they are used and recorded: four digits say all that a proxy can tell apart."""
    return {name: int(value) if isinstance(value, int) else round(float(value), 4) for name, value in values.items()}
