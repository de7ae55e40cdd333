"""Generation on a pool of Ray actors: (parameter version, tokens) -> committed dataset version.

Every shard is a pure function of (spec, seed, index range), so the job needs no bookkeeping of its own: an actor that
finds the shard already in the lake returns it, one that dies is replaced and its shard is made again, two drivers that
race write the same bytes. Only the commit makes anything visible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from datalake import Lake, Manifest, ShardRef, Source, content_digest, repair_shard, shard_layout, shard_ref_if_valid
from datalake.datasets import DatasetVersion
from datalake.registry import ParameterVersion
from generator import GENERATOR_VERSION, GenerationSpec, check_acceptance, generate_batch, parse_spec
from orchestration.errors import GenerationFailedError, InvalidRequestError
from orchestration.ray_session import compute_cores

# A poison shard must not loop for ever: this many deaths of an actor on one shard end the job.
SHARD_RETRIES = 3

# One shard in work and one waiting per actor keep it busy; more would only hold results in memory.
IN_FLIGHT_PER_ACTOR = 2

DEFAULT_SHARD_SEQUENCES = 4096


@dataclass(frozen=True)
class GenerateRequest:
    """What `generate` was asked for; `tokens` is rounded up to whole sequences, and the set lends its name."""

    params: ParameterVersion
    tokens: int
    dataset: str | None = None
    seed: int = 0
    shard_sequences: int = DEFAULT_SHARD_SEQUENCES
    actors: int | None = None
    backend: str = "auto"
    message: str = ""

    def __post_init__(self) -> None:
        for field, low, high in (("tokens", 1, 2**62), ("shard_sequences", 1, 2**24), ("seed", 0, 2**63 - 1)):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InvalidRequestError(f"{field} = {value}: expected {low} to {high}; give another value")
        if self.actors is not None and self.actors < 1:
            raise InvalidRequestError(f"actors = {self.actors}: expected at least 1; leave it out to use every core")


@dataclass(frozen=True)
class GenerateResult:
    """The committed version, its manifest, and how many shards were made now rather than found."""

    dataset: DatasetVersion
    manifest: Manifest
    shards_written: int
    shards_reused: int


class ShardWorker:
    """Makes shards of one source; holds nothing between calls but compiled kernels."""

    def __init__(self, lake: Lake, source: Source, backend: str, threads: int) -> None:
        self._lake, self._source, self._backend, self._threads = lake, source, backend, threads
        self._spec = parse_spec(source.spec)

    def make(self, first: int, rows: int) -> tuple[ShardRef, bool]:
        """Return the shard of sequences `first` … `first + rows - 1` and whether it had to be written."""
        found = shard_ref_if_valid(self._lake.store, self._source, first, rows)
        if found is not None:
            return found, False
        seed = self._source.seed
        assert seed is not None, "a synthetic source has a seed"
        table = generate_batch(self._spec, seed, first, rows, backend=self._backend, threads=self._threads)
        # A damaged object may hold the key; what belongs there is certain, so it is put right, the damage kept aside.
        return repair_shard(self._lake.store, self._source, table, first, self._lake.ambient), True


def synthetic_source(spec: GenerationSpec, seed: int, shard_sequences: int) -> Source:
    """The identity of a synthetic shard stream; parameter names are no part of it, so equal specs share shards."""
    return Source(
        kind="synthetic",
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        seed=seed,
        generator=GENERATOR_VERSION,
        shard_sequences=shard_sequences,
    )


def run_generation(
    lake: Lake, request: GenerateRequest, advance: Callable[[float, str], None] = lambda *_: None
) -> GenerateResult:
    """Generate what is missing and commit the dataset version; `advance` is told the tokens done so far.

    Ray must be initialised. Raises BandError before any work when the band is hardly met, GenerationFailedError when
    a shard cannot be made.
    """
    lake.check_writable()
    spec = parse_spec(request.params.spec)
    check_acceptance(spec)
    source = synthetic_source(spec, request.seed, request.shard_sequences)
    sequences = math.ceil(request.tokens / spec.seq_len)
    layout = shard_layout(sequences, request.shard_sequences)
    pool = _make_pool(lake, source, request, len(layout))
    made = _make_shards(source, layout, pool, spec.seq_len, advance)
    refs = [made[first][0] for first, _ in layout]
    manifest = Manifest.build(
        source,
        refs,
        seq_len=spec.seq_len,
        vocab_size=spec.vocab_size,
        content_digest=_content_digest(lake, refs),
    )
    name = request.dataset or request.params.name
    dataset = lake.datasets.commit(name, manifest, params=request.params.ref, message=request.message)
    written = sum(new for _, new in made.values())
    return GenerateResult(dataset, manifest, written, len(refs) - written)


def _make_pool(lake: Lake, source: Source, request: GenerateRequest, shards: int) -> list[Any]:
    """Actors for `shards` shards: one per GPU, with its share of CPUs for scoring, or one per core without GPUs."""
    gpus = int(ray.cluster_resources().get("GPU", 0)) if request.backend in ("auto", "triton") else 0
    if request.backend == "triton" and not gpus:
        raise InvalidRequestError("backend = 'triton': this Ray has no GPU; use auto, or join a cluster that has some")
    actors = min(request.actors or gpus or compute_cores(), shards)
    threads = max(1, compute_cores() // actors) if gpus else 1
    options: dict[str, Any] = {"num_cpus": threads, "num_gpus": 1 if gpus else 0}
    worker: Any = ray.remote(max_restarts=-1, max_task_retries=SHARD_RETRIES, **options)(ShardWorker)
    return [worker.remote(lake, source, request.backend, threads) for _ in range(actors)]


def _make_shards(
    source: Source,
    layout: Iterable[tuple[int, int]],
    pool: list[Any],
    seq_len: int,
    advance: Callable[[float, str], None],
) -> dict[int, tuple[ShardRef, bool]]:
    """Run every shard through `pool` and end it; at most IN_FLIGHT_PER_ACTOR each. Returns {first: (ref, written)}."""
    waiting = list(reversed(list(layout)))
    in_flight: dict[ray.ObjectRef, tuple[int, int, int]] = {}
    made: dict[int, tuple[ShardRef, bool]] = {}
    tokens_done = 0
    try:
        free = [index for index in range(len(pool)) for _ in range(IN_FLIGHT_PER_ACTOR)]
        while waiting or in_flight:
            while waiting and free:
                first, rows = waiting.pop()
                index = free.pop(0)
                task = pool[index].make.options(name=f"shard {source.data_digest[:8]}/{first:012d}")
                in_flight[task.remote(first, rows)] = (index, first, rows)
            ready, _ = ray.wait(list(in_flight), num_returns=1)
            index, first, rows = in_flight.pop(ready[0])
            made[first] = _result(ready[0], first, rows)
            free.append(index)
            tokens_done += rows * seq_len
            advance(tokens_done, f"{len(made)} shards")
    finally:
        for actor in pool:
            ray.kill(actor)
    return made


def _result(ref: ray.ObjectRef, first: int, rows: int) -> tuple[ShardRef, bool]:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            # The worker's own named error, not Ray's wrapping of it, is what tells the user what to do.
            raise error.cause from error
        raise
    except RayError as error:
        raise GenerationFailedError(
            f"shard of sequences {first} to {first + rows - 1}: its worker died {SHARD_RETRIES + 1} times "
            f"({type(error).__name__}); run the command again, and with fewer --actors if memory is short"
        ) from error


def _content_digest(lake: Lake, refs: list[ShardRef]) -> str:
    # In a task, because the driver may sit far from the store and holds no bulk data.
    task = ray.remote(content_digest).options(num_cpus=1, name="content digest")
    return ray.get(task.remote(lake.store, refs))
