"""Training while generating: one of the config's datasets is made in the order in which the plan first reads it.

The rows, their order and hence the losses are those of generating first and training after; so are the run's config and
inputs, and either way of running goes on with what the other began.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray

from datalake import Lake, Manifest
from datalake.errors import NotFoundError
from datalake.names import parse_ref
from generator import check_acceptance, parse_spec
from orchestration.cluster.resources import Demand, cluster_nodes, demand_of_workers, require
from orchestration.cluster.session import compute_cores
from orchestration.errors import InvalidRequestError
from orchestration.generation.worker import plan_dataset
from orchestration.live.config import LiveRequest
from orchestration.live.feed import FeedJob, LiveFeed
from orchestration.live.schedule import steps_per_task
from orchestration.live.stream import LiveStream, ask
from orchestration.training.ray_train import train_on_ray
from orchestration.training.worker_range import WorkerRange
from trainer import TrainConfig, TrainDataset, TrainJob, TrainResult
from trainer.inputs import open_inputs

FEED_RESTARTS = 3


def train_live(
    job: TrainJob, request: LiveRequest | None, *, workers: int | WorkerRange = 2, use_gpu: bool = False, **how: Any
) -> TrainResult:
    """``train_on_ray`` (with ``how``) that makes one of the datasets meanwhile, as ``request`` says.

    The result's ``facts["live"]`` says what was counted. Without a request, or where the dataset is committed already,
    it is ``train_on_ray``. Raises what ``train_on_ray`` and ``run_generation`` do.
    """
    if request is None:
        return train_on_ray(job, workers=workers, use_gpu=use_gpu, **how)
    if isinstance(workers, WorkerRange):  # the feed hands each batch to the ranks that it was told of
        raise InvalidRequestError(f"workers = {workers}: with --live the number stays as it is; name one, not a range")
    with live_stream(job.lake, job.config, request, job.run, workers=workers, use_gpu=use_gpu) as stream:
        if stream is not None:
            job = replace(job, planned=stream, batches=stream.batches)
        return train_on_ray(job, workers=workers, use_gpu=use_gpu, **how)


@contextmanager
def live_stream(
    lake: Lake, config: TrainConfig, request: LiveRequest, run: str, *, workers: int = 1, use_gpu: bool = False
) -> Iterator[LiveStream | None]:
    """Start making the dataset for run ``run``; yields what its workers read from, None if it is committed already.

    Ray must be initialised. Raises before anything is started: InvalidRequestError, BandError and what
    ``open_inputs`` raises. Shards made stay in the lake when the context ends.
    """
    ref = _planned_ref(config, request)
    params = lake.params.usable(request.params)
    spec = parse_spec(params.spec)
    sequences = math.ceil(request.tokens / spec.seq_len)
    planned = plan_dataset(spec, request.seed, sequences, request.shard_sequences)
    if is_committed(lake, ref, planned):
        yield None
        return
    check_acceptance(spec)
    dataset = TrainDataset(ref, planned, lake.store, params.ref)
    inputs = open_inputs(config, lake, dataset)
    plan, token_bytes = inputs.plan, inputs.token_dtype.itemsize
    index = [item.dataset for item in config.data].index(ref)
    shards_bound = request.buffer_bytes // 2
    batches_bound = request.buffer_bytes - shards_bound
    per_task = steps_per_task(plan, planned, shards_bound, batches_bound, token_bytes)
    actors, threads, gpus = _pool(request, workers, use_gpu)
    job = FeedJob(
        lake=lake,
        run=run,
        ref=ref,
        params=params.ref,
        planned=planned,
        plan=plan,
        source=index,
        steps=config.steps,
        shards_bound=shards_bound,
        batches_bound=batches_bound,
        token_bytes=token_bytes,
        actors=min(actors, math.ceil(planned.sequences / request.shard_sequences)),
        threads=threads,
        gpus=gpus,
        backend=request.backend,
    )
    feed: Any = ray.remote(num_cpus=0, max_restarts=FEED_RESTARTS)(LiveFeed).remote(job)
    try:
        # At once, and not when the first worker asks: workers take many seconds to start.
        ask(feed.begin.remote(_first_step(lake, run), workers, 0))
        yield LiveStream(feed, dataset, index, per_task)
    finally:
        ray.kill(feed)  # and with it the actors that it owns


def is_committed(lake: Lake, ref: str, planned: Manifest) -> bool:
    """Whether the lake has ``ref`` with the rows planned; InvalidRequestError if they cannot become ``ref``."""
    name, version = parse_ref(ref, "dataset")
    try:
        history = lake.datasets.history(name)
    except NotFoundError:
        history = []
    for known in (version for version in history if not version.retired):
        if lake.datasets.manifest(known).identity == planned.identity:
            if known.version == version:
                return True
            raise InvalidRequestError(
                f"live.dataset = {ref!r}: this data is committed as {known.ref}; name it so in the config's data"
            )
    if version != (following := len(history) + 1):
        problem = "is other data than [live] describes" if version in range(following) else "is not the next version"
        raise InvalidRequestError(f"live.dataset = {ref!r}: {problem}; name {name}@{following} in the config's data")
    return False


def _planned_ref(config: TrainConfig, request: LiveRequest) -> str:
    names = [item.dataset for item in config.data]
    if request.dataset is None and len(names) > 1:
        raise InvalidRequestError(f"live.dataset: missing, and there is a choice; name one of {', '.join(names)}")
    ref = request.dataset or names[0]
    if ref not in names:
        raise InvalidRequestError(f"live.dataset = {ref!r}: not one of the config's data; it has {', '.join(names)}")
    if not isinstance(parse_ref(ref, "dataset").selector, int):
        raise InvalidRequestError(f"live.dataset = {ref!r}: name the version that it will be, such as NAME@1")
    return ref


def _first_step(lake: Lake, run: str) -> int:
    """Where the run will go on; a guess that only decides what is made first."""
    try:
        newest = lake.runs.get(run).newest_checkpoint
    except NotFoundError:
        return 0
    return newest.step if newest else 0


def _pool(request: LiveRequest, workers: int, use_gpu: bool) -> tuple[int, int, int]:
    """Generator actors, CPUs of each and GPUs of each, beside the training workers and one CPU that loads.

    Raises InvalidRequestError if the cluster can never hold them all.
    """
    cpus, gpus = (int(sum(node[kind] for node in cluster_nodes())) for kind in ("CPU", "GPU"))
    room = cpus - workers - 1
    free_gpus = gpus - workers * use_gpu if request.backend in ("auto", "triton") else 0
    if request.backend == "triton" and free_gpus < 1:
        raise InvalidRequestError(
            f"backend = 'triton': none of this Ray's {gpus} GPUs is left beside {workers} workers; use auto"
        )
    on_gpu = int(free_gpus > 0)
    actors = request.actors or 1
    training = demand_of_workers(workers, use_gpu)
    require(
        Demand(
            f"workers = {workers} and actors = {actors}, live",
            (*training.bundles, *([{"CPU": 1.0, "GPU": float(on_gpu)}] * actors)),
            "lower the number of workers or of the generators' actors, or join a larger cluster",
        )
    )
    if on_gpu:
        actors = request.actors or max(1, min(room, free_gpus))
        return actors, max(1, room // actors), 1
    return request.actors or max(1, min(room, compute_cores())), 1, 0
