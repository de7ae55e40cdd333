"""What every part of a configuration is: an immutable value, read from TOML or JSON, that knows no unknown field."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

T = TypeVar("T")


class ConfigModel(BaseModel):
    """Base of all configuration values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def without_unset(fields: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """``fields`` without those of ``defaults`` that have that value."""
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Listed = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
"""A tuple that may be written as a list, which is what TOML and JSON have."""

Pair = Annotated[tuple[float, float], BeforeValidator(_as_tuple)]
"""Two numbers."""
