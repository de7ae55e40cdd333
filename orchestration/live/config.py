"""What `train --live` makes: the table ``[live]`` of a training config, which training offline passes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datalake.shards.source import MOST_SHARD_SEQUENCES
from generator.toml_files import problems_of
from orchestration.errors import InvalidRequestError

# A shard no larger than the plan's block is used up soon after it is made; larger ones only need a larger buffer.
LIVE_SHARD_SEQUENCES = 256

DEFAULT_BUFFER_BYTES = 256 << 20


class LiveRequest(BaseModel):
    """The table ``[live]`` of a training config: what to make, and how much of it may be under way.

    ``dataset`` names one of the config's datasets, which may be left out where there is only one; ``tokens`` is rounded
    up to whole sequences; ``buffer_bytes`` limits what is generated and not yet trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: str
    tokens: int = Field(ge=1, lt=2**62)
    dataset: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard_sequences: int = Field(default=LIVE_SHARD_SEQUENCES, ge=1, le=MOST_SHARD_SEQUENCES)
    buffer_bytes: int = Field(default=DEFAULT_BUFFER_BYTES, ge=1)
    actors: int | None = Field(default=None, ge=1)
    backend: str = "auto"


def parse_live(table: Mapping[str, Any] | None, **changes: Any) -> LiveRequest:
    """``LiveRequest`` from parsed TOML, with ``changes`` that are not None; InvalidRequestError in one line."""
    if table is None:
        raise InvalidRequestError("live: the config has no table [live]; add one with at least params and tokens")
    table = {**table, **{field: value for field, value in changes.items() if value is not None}}
    try:
        return LiveRequest.model_validate(table)
    except ValidationError as error:
        raise InvalidRequestError(f"{problems_of(error, 'live')}; mend the table [live]") from error
