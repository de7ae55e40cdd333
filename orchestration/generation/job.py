"""Generation on a pool of Ray actors: (parameter version, tokens) -> committed dataset version.

Every shard is a pure function of (spec, seed, index range), so nothing depends on the job's bookkeeping: an actor that
finds the shard already in the lake returns it, one that dies is replaced and its shard is made again, two drivers that
race write the same bytes. Only the commit makes anything visible; the run's record only tells how it went.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from datalake import Lake, Source, shard_layout
from datalake.events import log_event
from orchestration.cluster.address import cluster_address
from orchestration.cluster.pool import ActorPool
from orchestration.cluster.resources import Demand, autoscales, cluster_nodes, require
from orchestration.cluster.session import cluster_facts, compute_cores
from orchestration.errors import InvalidRequestError
from orchestration.generation.pool import Shard, ShardTasks
from orchestration.generation.record import GenerateResult, acquire_run, commit_shards
from orchestration.generation.request import GenerateRequest, plan_request
from orchestration.generation.worker import Made, ShardWorker
from orchestration.runs.lease import RunLease
from orchestration.runs.signals import Stop

# One shard in work and one waiting per actor keep it busy; more would only hold results in memory.
IN_FLIGHT_PER_ACTOR = 2


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
    planned = plan_request(lake, request)
    layout = shard_layout(planned.sequences, request.shard_sequences)
    needs = ActorNeeds.of(request)
    require(needs.demand, stop)
    resources = {**cluster_facts(), "per_actor": needs.options, "actors": needs.room()}
    with acquire_run(lake, request, resources, run, stop, parent) as run_lease:
        made = _make_shards(lake, planned.source, layout, request, needs, run_lease, advance)
        return commit_shards(lake, request, planned, made.values(), run_lease)


@dataclass(frozen=True)
class ActorNeeds:
    """What one generator actor takes of this Ray, found out once a job: ``cpus`` (threads) and ``gpus``.

    ``actors`` is how many were asked for; None: as many as there is room for, and where the cluster ``grows``, twice
    that, which its autoscaler sees.
    """

    cpus: int
    gpus: float
    actors: int | None
    gpus_matter: bool
    grows: bool

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
        gpus_matter = request.gpus_per_actor is not None or request.backend == "triton"
        return cls(cpus, per_actor, request.actors, gpus_matter, grows=cluster_address() is not None and autoscales())

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
        held = ray.cluster_resources().get("GPU", 0) / self.gpus if self.gpus else compute_cores() // self.cpus
        return max(1, int(held)) * (2 if self.grows else 1)


def _make_shards(
    lake: Lake,
    source: Source,
    layout: Sequence[Shard],
    request: GenerateRequest,
    needs: ActorNeeds,
    run_lease: RunLease,
    advance: Callable[[float, str], None],
) -> dict[int, Made]:
    """Run every shard through a pool. Returns them by first sequence."""
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
        run_lease.check_going(f"has {len(made)} of {len(layout)} shards")

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
