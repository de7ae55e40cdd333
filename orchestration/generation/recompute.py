"""The generator handed to the lake's readers and repairs, which know nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datalake import DamagePolicy, Repairer
from datalake.lake import ModelFiles
from generator import SpecGenerator


def lake_generator(lake_uri: str, threads: int | None = None) -> SpecGenerator:
    """The generator of this release; weights that a spec names come from the models of the lake at ``lake_uri``.

    ``threads`` make a table: all cores by default.
    """
    return SpecGenerator(ModelFiles(lake_uri), threads)


def make_repairer(
    lake_uri: str, policy: DamagePolicy | None = None, log_event: Callable[[dict[str, Any]], None] | None = None
) -> Repairer:
    """A job's repairer, which can compute rows; made in each process of the job."""
    return Repairer(policy, lake_generator(lake_uri), log_event=log_event)
