"""What a generation is asked for, and what it will be before anything is made: without Ray."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from datalake import Lake, Manifest
from datalake.reading.computed import check_generator
from datalake.registry.datasets import DatasetVersion
from datalake.registry.params import ParameterVersion
from datalake.shards.shards import check_shard_size
from datalake.shards.source import MOST_SHARD_SEQUENCES
from generator import SpecGenerator, check_acceptance, parse_spec
from orchestration.errors import InvalidRequestError
from orchestration.generation.weights import provide_weights
from orchestration.generation.worker import plan_dataset

DEFAULT_SHARD_SEQUENCES = 4096


@dataclass(frozen=True)
class GenerateRequest:
    """What `generate` was asked for; `tokens` is rounded up to whole sequences, and the set lends its name."""

    params: ParameterVersion
    tokens: int
    _: KW_ONLY
    dataset: str | None = None
    seed: int = 0
    shard_sequences: int = DEFAULT_SHARD_SEQUENCES
    actors: int | None = None
    backend: str = "auto"
    message: str = ""
    cpus_per_actor: int | None = None
    gpus_per_actor: float | None = None

    @property
    def dataset_name(self) -> str:
        return self.dataset or self.params.name

    def to_config(self) -> dict[str, Any]:
        """What fixes the result, as JSON; the rest is how."""
        return {
            "params": self.params.ref,
            "tokens": self.tokens,
            "dataset": self.dataset_name,
            "seed": self.seed,
            "shard_sequences": self.shard_sequences,
        }

    def __post_init__(self) -> None:
        for field, low, high in (
            ("tokens", 1, 2**62),
            ("shard_sequences", 1, MOST_SHARD_SEQUENCES),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InvalidRequestError(f"{field} = {value}: expected {low} to {high}; give another value")
        if self.actors is not None and self.actors < 1:
            raise InvalidRequestError(f"actors = {self.actors}: expected at least 1; leave it out to use every core")
        if self.cpus_per_actor is not None and self.cpus_per_actor < 1:
            raise InvalidRequestError(f"cpus_per_actor = {self.cpus_per_actor}: expected at least 1; leave it out")
        if self.gpus_per_actor is not None and not (self.gpus_per_actor >= 0 and math.isfinite(self.gpus_per_actor)):
            raise InvalidRequestError(f"gpus_per_actor = {self.gpus_per_actor}: expected 0 or more; leave it out")
        if self.gpus_per_actor is not None and self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise InvalidRequestError(
                f"gpus_per_actor = {self.gpus_per_actor}: a part of a GPU or whole ones; give 0 to 1 or a whole number"
            )


def plan_request(lake: Lake, request: GenerateRequest) -> Manifest:
    """The dataset that ``request`` asks for, before any of it is made: the manifest of the computed dataset.

    Raises BandError when the band is hardly met, WeightsError, and ObjectTooLargeError for shards too large to store.
    """
    spec = parse_spec(request.params.spec)
    provide_weights(lake, request.params.spec)
    check_acceptance(spec)
    sequences = math.ceil(request.tokens / spec.seq_len)
    check_shard_size(sequences, request.shard_sequences, spec.seq_len, spec.vocab_size)
    return plan_dataset(spec, request.seed, sequences, request.shard_sequences)


def commit_computed(lake: Lake, request: GenerateRequest) -> tuple[DatasetVersion, Manifest]:
    """Commit what ``request`` asks for as a computed dataset version: nothing is made. Raises as ``plan_request``."""
    manifest = plan_request(lake, request)
    message = request.message
    return lake.datasets.commit(request.dataset_name, manifest, params=request.params.ref, message=message), manifest


def request_of(lake: Lake, ref: str, actors: int | None = None) -> GenerateRequest:
    """The generation that makes the shards of computed dataset version ``ref``.

    Raises InvalidRequestError for a version that has shards, or no parameter set with its spec, GeneratorVersionError
    where this generator would make other rows, RetiredError and NotFoundError.
    """
    version = lake.datasets.usable(ref)
    manifest = lake.datasets.manifest(version)
    if not manifest.is_computed:
        raise InvalidRequestError(
            f"dataset {version.ref}: is stored, in {len(manifest.shards)} shards; only a computed one is materialized"
        )
    check_generator(manifest, version.ref, SpecGenerator())
    if version.params is None:
        raise InvalidRequestError(
            f"dataset {version.ref}: was committed without a parameter set; commit its spec (`morphogen params put`) "
            "and generate from that"
        )
    params = lake.params.get(version.params)
    source = manifest.source
    if (found := parse_spec(params.spec).digest) != source.spec_digest:
        raise InvalidRequestError(
            f"dataset {version.ref}: its spec has SHA-256 {source.spec_digest}, that of {version.params} has {found}; "
            "commit its spec (`morphogen params put`) and generate from that"
        )
    assert source.seed is not None, "a synthetic source has a seed"
    return GenerateRequest(
        params,
        manifest.tokens,
        dataset=version.name,
        seed=source.seed,
        shard_sequences=source.shard_sequences,
        actors=actors,
        message=f"materialized from {version.ref}",
    )
