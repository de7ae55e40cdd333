"""How lost shards are computed again: the generator, handed to the lake's healing, which knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pyarrow import Table

from datalake import DamagePolicy, Lake, Repairer, Source
from datalake.errors import UnhealableError
from generator import GENERATOR_VERSION, generate_batch, parse_spec
from orchestration.generation.weights import lacks_weights, provide_weights


def recompute(source: Source, first: int, rows: int, lake_uri: str | None = None) -> Table:
    """The rows of one shard of a synthetic source.

    Raises UnhealableError if another generator made it, WeightsError if it needs weights that are neither in the
    package nor in the lake at ``lake_uri``.
    """
    if source.generator != GENERATOR_VERSION:
        raise UnhealableError(
            f"sequences {first} to {first + rows - 1} were made by generator version {source.generator}, this is "
            f"{GENERATOR_VERSION}: heal with the release of morphogen that has version {source.generator}"
        )
    assert source.seed is not None, "a synthetic source has a seed"
    if lake_uri is not None and lacks_weights(source.spec):
        provide_weights(Lake.open(lake_uri), source.spec)
    return generate_batch(parse_spec(source.spec), source.seed, first, rows)


def make_repairer(
    policy: DamagePolicy | None = None,
    log_event: Callable[[dict[str, Any]], None] | None = None,
    lake_uri: str | None = None,
) -> Repairer:
    """A training job's repairer, which can compute shards again; made in each process of the job.

    Weights that a dataset's spec names are fetched from the lake at ``lake_uri``.
    """
    return Repairer(policy, partial(recompute, lake_uri=lake_uri), log_event=log_event)
