"""Heartbeats: one small object per run that its owner overwrites every few seconds, to say that it lives and how far
it is.

A heartbeat is a hint and never the truth. Losing one, or two owners writing over each other, harms nothing: who may
write to a run is decided by the run's log alone, which would grow by an object every few seconds if it carried this.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from datalake.canonical import canonical_json
from datalake.errors import CorruptObjectError, NotFoundError
from datalake.store.interface import Store


class Heartbeat(BaseModel):
    """``beat`` counts up while the owner that holds ``lease`` lives; ``time`` is its clock's; ``progress`` its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease: str
    beat: int
    time: str
    progress: dict[str, Any] = {}


def write_heartbeat(store: Store, run: str, heartbeat: Heartbeat) -> None:
    """Make ``heartbeat`` the run's newest."""
    store.replace(heartbeat_key(run), canonical_json(heartbeat.model_dump(mode="json")))


def read_heartbeat(store: Store, run: str) -> Heartbeat | None:
    """Return the run's newest heartbeat, None if there is none. Raises CorruptObjectError for anything else."""
    key = heartbeat_key(run)
    try:
        return Heartbeat.model_validate_json(store.get(key))
    except NotFoundError:
        return None
    except ValidationError as error:
        raise CorruptObjectError(
            f"object {key} is not a heartbeat of a run: delete it, its owner writes a new one"
        ) from error


def heartbeat_key(run: str) -> str:
    """Where the heartbeat of ``run`` is."""
    return f"pulses/{run}.json"
