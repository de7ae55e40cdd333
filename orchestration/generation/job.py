"""Generation on a pool of Ray actors: (parameter version, tokens) -> committed dataset version.

Every shard is a pure function of (spec, seed, index range), so nothing depends on the job's bookkeeping: an actor that
finds the shard already in the lake returns it, one that dies is replaced and its shard is made again, two drivers that
race write the same bytes. Only the commit makes anything visible; the run's record only tells how it went.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from itertools import chain, count
from typing import Any

import ray
from ray.exceptions import RayTaskError

from datalake import (
    Lake,
    Manifest,
    ShardRef,
    Source,
    content_digest,
    digest_of,
    shard_layout,
)
from datalake.errors import RetiredError, RunHeldError
from datalake.events import log_event
from datalake.registry.datasets import DatasetVersion
from datalake.registry.params import ParameterVersion
from datalake.shards.shards import check_shard_size
from datalake.shards.source import MOST_SHARD_SEQUENCES
from generator import check_acceptance, parse_spec
from orchestration.cluster.head import check_cluster
from orchestration.cluster.pool import POLL_S, ActorPool, named_cause
from orchestration.cluster.resources import Demand, cluster_nodes, require
from orchestration.cluster.session import cluster_facts, compute_cores
from orchestration.console.progress import console
from orchestration.errors import InvalidRequestError
from orchestration.generation.pool import Made, Shard, ShardTasks
from orchestration.generation.weights import provide_weights
from orchestration.generation.worker import ShardWorker, plan_dataset
from orchestration.runs.lease import RunLease, acquire
from orchestration.runs.signals import Stop

DEFAULT_SHARD_SEQUENCES = 4096

# One shard in work and one waiting per actor keep it busy; more would only hold results in memory.
IN_FLIGHT_PER_ACTOR = 2


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


@dataclass(frozen=True)
class GenerateResult:
    """The committed version, its manifest, how many shards were made now rather than found, and the run's name."""

    dataset: DatasetVersion
    manifest: Manifest
    shards_written: int
    shards_reused: int
    run: str

    def to_record(self) -> dict[str, Any]:
        """JSON-able, as the command prints it and the run's record keeps it."""
        return {
            "run": self.run,
            "dataset": self.dataset.ref,
            "digest": self.manifest.digest,
            "content_digest": self.manifest.content_digest,
            "sequences": self.manifest.sequences,
            "tokens": self.manifest.tokens,
            "shards": len(self.manifest.shards),
            "shards_written": self.shards_written,
            "shards_reused": self.shards_reused,
        }


def run_generation(
    lake: Lake,
    request: GenerateRequest,
    advance: Callable[[float, str], None] = lambda *_: None,
    *,
    run: str | None = None,
    stop: Stop | None = None,
    parent: str | None = None,
) -> GenerateResult:
    """Generate what is missing and commit the dataset version; `advance` is told the tokens done so far.

    Ray must be initialised. The record is run `run`; without a name it is the request's own run, or another one where
    that is being worked on: generations may race, since what they make is the same.

    Raises BandError before any work when the band is hardly met, InvalidRequestError for an actor that no node of the
    cluster can hold, GenerationFailedError when a shard cannot be made,
    JobStopped once `stop` or a request in the lake has ended it, and what `acquire` raises.
    """
    lake.check_writable()
    spec = parse_spec(request.params.spec)
    provide_weights(lake, request.params.spec)
    check_acceptance(spec)
    sequences = math.ceil(request.tokens / spec.seq_len)
    check_shard_size(sequences, request.shard_sequences, spec.seq_len, spec.vocab_size)
    planned = plan_dataset(spec, request.seed, sequences, request.shard_sequences)
    layout = shard_layout(sequences, request.shard_sequences)
    needs = ActorNeeds.of(request)
    require(needs.demand, stop)
    with _acquired(lake, request, needs, run, stop, parent) as run_lease:
        made = _make_shards(lake, planned.source, layout, request, needs, run_lease, advance)
        refs = [made[first][0] for first, _ in layout]
        manifest = Manifest.of(planned, refs, _content_digest(lake, refs, run_lease))
        dataset = lake.datasets.commit(
            request.dataset_name, manifest, params=request.params.ref, message=request.message
        )
        written = sum(new for _, new in made.values())
        result = GenerateResult(dataset, manifest, written, len(refs) - written, run_lease.run.name)
        if not run_lease.finished:
            run_lease.run.finish(result.to_record())
    return result


@contextmanager
def _acquired(
    lake: Lake, request: GenerateRequest, needs: ActorNeeds, run: str | None, stop: Stop | None, parent: str | None
) -> Iterator[RunLease]:
    """The request's run; without a name, the first of its runs (-2, -3, …) that is neither worked on nor retired."""
    config = request.to_config()
    default = f"generate-{request.dataset_name[:100]}-{digest_of(config)[:8]}"
    names = [run] if run else chain([default], (f"{default}-{number}" for number in count(2)))
    inputs = {"params": [request.params.ref], "spec_digest": request.params.digest}
    how = ("actors", "backend", "message", "cpus_per_actor", "gpus_per_actor")
    settings = {field: getattr(request, field) for field in how}
    resources = {**cluster_facts(), "per_actor": needs.options, "actors": needs.room()}
    with ExitStack() as stack:
        for name in names:
            try:
                run_lease = stack.enter_context(
                    acquire(
                        *(lake, name, "generate", config, inputs),
                        stop=stop,
                        settings=settings,
                        resources=resources,
                        parent=parent,
                        wait=run is not None,
                    )
                )
                break
            except (RunHeldError, RetiredError):
                if run is not None:
                    raise
        yield run_lease


@dataclass(frozen=True)
class ActorNeeds:
    """What one generator actor takes of this Ray, found out once a job: ``cpus`` (threads) and ``gpus``.

    ``actors`` is how many were asked for; None: as many as there is room for.
    """

    cpus: int
    gpus: float
    actors: int | None
    gpus_matter: bool

    @classmethod
    def of(cls, request: GenerateRequest) -> ActorNeeds:
        """A GPU where there are any, with its share of the CPUs for scoring, else a CPU; or what ``request`` says."""
        gpus = int(ray.cluster_resources().get("GPU", 0)) if request.backend in ("auto", "triton") else 0
        if request.backend == "triton" and not gpus:
            raise InvalidRequestError(
                "backend = 'triton': this Ray has no GPU; use auto, or join a cluster that has some"
            )
        per_actor = request.gpus_per_actor if request.gpus_per_actor is not None else float(min(gpus, 1))
        on_gpus = request.actors or (int(gpus / per_actor) if per_actor else 0)
        shared = [compute_cores() // on_gpus] if gpus and on_gpus else [1]
        if gpus and per_actor:  # nodes differ: no more than what each of those with GPUs can spare
            shared += [int(node["CPU"] / max(1.0, node["GPU"] // per_actor)) for node in cluster_nodes() if node["GPU"]]
        cpus = request.cpus_per_actor or max(1, min(shared))
        return cls(cpus, per_actor, request.actors, request.gpus_per_actor is not None or request.backend == "triton")

    @property
    def options(self) -> dict[str, Any]:
        """As Ray's options of an actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    @property
    def demand(self) -> Demand:
        """What one actor needs, without which nothing is made; more of them only make it quicker."""
        need = ({"CPU": float(self.cpus), "GPU": self.gpus},)
        if self.gpus and self.gpus_matter:
            advice = "lower --gpus-per-actor (0 uses the CPUs) or --cpus-per-actor, or join a cluster with such a node"
            return Demand(f"gpus_per_actor = {self.gpus:g}", need, advice)
        advice = "lower --cpus-per-actor, or join a cluster with such a node"
        return Demand(f"cpus_per_actor = {self.cpus}", need, advice)

    def room(self) -> int:
        """How many actors there should be now: as asked, or as many as the cluster's GPUs, or else its CPUs, hold."""
        if self.actors:
            return self.actors
        if self.gpus:
            return max(1, int(ray.cluster_resources().get("GPU", 0) / self.gpus))
        return max(1, compute_cores() // self.cpus)


def _make_shards(
    lake: Lake,
    source: Source,
    layout: Sequence[Shard],
    request: GenerateRequest,
    needs: ActorNeeds,
    run_lease: RunLease,
    advance: Callable[[float, str], None],
) -> dict[int, Made]:
    """Run every shard through a pool. Returns {first: (ref, written)}."""
    seq_len = request.params.spec["seq_len"]
    made: dict[int, Made] = {}
    tokens_done = 0
    worker: Any = ray.remote(max_restarts=0, max_task_retries=0, **needs.options)(ShardWorker)

    def make_actor(number: int) -> Any:
        title = f"{request.dataset_name} #{number}"
        return worker.remote(lake, source, request.backend, needs.cpus, title, run_lease.run.name)

    def on_made(shard: Shard, result: Made) -> None:
        nonlocal tokens_done
        made[shard[0]] = result
        tokens_done += shard[1] * seq_len
        note = f"{pool.size} actors"
        run_lease.advance(tokens_done, request.tokens, "tokens", f"{len(made)} of {len(layout)} shards, {note}")
        advance(tokens_done, f"{len(made)} shards, {note}")

    def poll() -> None:
        run_lease.check()
        if run_lease.stop.is_set():
            raise run_lease.stop.error(run_lease.run.name, f"has {len(made)} of {len(layout)} shards")

    pool: ActorPool[Shard] = ActorPool(
        make_actor,
        needs.room,
        needs.demand,
        depth=IN_FLIGHT_PER_ACTOR,
        fault=run_lease.fault,
        on_size=lambda actors, shards: log_event("pool", logger="morphogen.generator", actors=actors, in_flight=shards),
    )
    with pool:
        pool.work(ShardTasks(layout, on_made, f"shard of {source.data_digest[:8]}"), poll)
    return made


def _content_digest(lake: Lake, refs: list[ShardRef], run_lease: RunLease) -> str:
    """The digest of all tokens, read back; raises JobStopped if the job is stopped meanwhile: all shards are kept."""
    # In a task, because the driver may sit far from the store and holds no bulk data.
    task: Any = ray.remote(content_digest).options(num_cpus=1, name="content digest")
    reading = task.remote(lake.store, refs)
    console.print(f"reading {len(refs)} shards back for the digest of their tokens")
    while not ray.wait([reading], timeout=POLL_S)[0]:
        run_lease.check()
        check_cluster()
        if run_lease.stop.is_set():
            ray.cancel(reading, force=True)
            raise run_lease.stop.error(run_lease.run.name, f"has all {len(refs)} shards and is reading them back")
    try:
        return ray.get(reading)
    except RayTaskError as error:
        raise named_cause(error) from error
