"""How lost shards are computed again: the generator, handed to the lake's healing, which knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyarrow import Table

from datalake import Ambient, Healer, Repair, Source
from datalake.errors import UnhealableError
from generator import GENERATOR_VERSION, generate_batch, parse_spec

# A training job may put right what a disk loses now and then; more than this is a person's to look at.
READER_SHARDS = 16
READER_SECONDS = 900.0


def recompute(source: Source, first: int, rows: int) -> Table:
    """The rows of one shard of a synthetic source. Raises UnhealableError if another generator made it."""
    if source.generator != GENERATOR_VERSION:
        raise UnhealableError(
            f"sequences {first} to {first + rows - 1} were made by generator version {source.generator}, this is "
            f"{GENERATOR_VERSION}: heal with the release of morphogen that has version {source.generator}"
        )
    assert source.seed is not None, "a synthetic source has a seed"
    return generate_batch(parse_spec(source.spec), source.seed, first, rows)


def reader_healer(
    note: Callable[[dict[str, Any]], None] = lambda _repair: None,
    *,
    max_shards: int = READER_SHARDS,
    max_seconds: float = READER_SECONDS,
    ambient: Ambient | None = None,
) -> Healer:
    """A healer for a training job's readers; ``note`` is told each repair as JSON, such as ``Run.add_repair``."""

    def on_repair(repair: Repair) -> None:
        note(repair.as_json())

    return Healer(recompute, ambient or Ambient(), max_shards=max_shards, max_seconds=max_seconds, on_repair=on_repair)
