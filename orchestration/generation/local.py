"""Generation on this machine's cores, in this process: no Ray to start, the same shards and the same dataset.

A thread for each core makes one shard after another; simulating, scoring and writing leave the interpreter to the
others. The threads are daemons: a job that is stopped ends at once, and what they were making is made again.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

from datalake import Lake, shard_layout
from orchestration.cluster.cores import local_cores
from orchestration.errors import refuse_without_ray
from orchestration.generation.record import GenerateResult, acquire_run, commit_shards
from orchestration.generation.request import GenerateRequest, plan_request
from orchestration.generation.worker import Made, ShardWorker
from orchestration.runs.owner import this_process
from orchestration.runs.signals import Stop

POLL_S = 0.1

Item = TypeVar("Item")
Result = TypeVar("Result")


def generate_here(
    lake: Lake,
    request: GenerateRequest,
    advance: Callable[[float, str], None] = lambda *_: None,
    *,
    run: str | None = None,
    stop: Stop | None = None,
    parent: str | None = None,
) -> GenerateResult:
    """Generate what is missing and commit the dataset version, as ``run_generation`` does, with the same digests.

    ``request.cpus_per_actor`` is how many threads work; None: one for each core. Raises InvalidRequestError for actors
    and for GPUs, and what ``run_generation`` raises but for what is about a cluster.
    """
    refuse_without_ray(actors=request.actors, gpus_per_actor=request.gpus_per_actor)
    lake.check_writable()
    planned = plan_request(lake, request)
    layout = shard_layout(planned.sequences, request.shard_sequences)
    cores = request.cpus_per_actor or local_cores()
    resources = {"cpus": cores, "driver": this_process()["host"]}
    with acquire_run(lake, request, resources, run, stop, parent, ray=False) as run_lease:
        workers = min(cores, len(layout))
        worker = ShardWorker(lake, planned.source, request.backend, max(1, cores // workers))
        made: dict[int, Made] = {}
        tokens = 0

        def poll() -> None:
            run_lease.check_going(f"has {len(made)} of {len(layout)} shards")

        for shard, result in each_result(lambda shard: worker.make(*shard), layout, workers, poll):
            made[shard[0]] = result
            tokens += shard[1] * planned.seq_len
            note = f"{len(made)} of {len(layout)} shards, {cores} cores"
            run_lease.advance(tokens, request.tokens, "tokens", note)
            advance(tokens, note)
        return commit_shards(lake, request, planned, made.values(), run_lease)


def each_result(
    act: Callable[[Item], Result], items: Sequence[Item], threads: int, poll: Callable[[], None]
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, act(item)) as ``threads`` threads finish them. ``poll`` is called ten times a second and may raise.

    What ``act`` raises is raised here; whatever ends this leaves the threads behind, each to end after its item.
    """
    waiting = deque(items)
    results: queue.SimpleQueue[tuple[Item, Result | None, Exception | None]] = queue.SimpleQueue()
    over = threading.Event()

    def work() -> None:
        while waiting and not over.is_set():
            try:
                item = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                results.put((item, act(item), None))
            except Exception as error:  # noqa: BLE001 - raised where the results are taken
                results.put((item, None, error))
                return

    for number in range(threads):
        threading.Thread(target=work, name=f"generate {number}", daemon=True).start()
    try:
        left = len(items)
        while left:
            poll()
            try:
                item, result, error = results.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            left -= 1
            yield item, cast(Result, result)
    finally:
        over.set()
