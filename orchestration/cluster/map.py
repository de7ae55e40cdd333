"""`map` on a Ray cluster: results in the order of the items, a bounded number of items in flight.

What is large may stay where it was made: its handle is Ray's reference, and whoever needs the value fetches it from the
node that has it. If that node is lost, Ray makes it anew by the same function.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from orchestration.cluster.head import check_cluster
from orchestration.cluster.pool import POLL_S, named_cause
from orchestration.cluster.resources import Demand, WaitNotice, require
from orchestration.cluster.session import compute_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# One item in work and one waiting per core keep it busy; more would only hold memory.
_IN_FLIGHT_PER_CORE = 2


def ray_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, title: str = "corpus", gpu: bool = False
) -> Iterator[Result]:
    """Apply ``function`` to each item in a Ray task, lazily. Ray must be initialised. The dashboard shows ``title``;
    with ``gpu`` every task has one.

    Raises InvalidRequestError for a cluster without a CPU for tasks, and says every 30 s what it waits for.

    A task whose worker dies is run again by Ray, so ``function`` must be harmless to repeat; the error that it raises
    is raised here as it was.
    """
    return map(_result, _started(function, ((item, ()) for item in items), title, gpu=gpu))


class RayCluster:
    """`ray_map`, and tasks whose large values stay with the nodes that made them; under the same conditions."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``function`` of each item."""
        return ray_map(function, items)

    def held(self, function: Callable[[Item], tuple[Any, Result]], items: Iterable[Item]) -> Iterator[Any]:
        """(reference to the first, the second) of what ``function`` returns for each item."""
        started = _started(function, ((item, ()) for item in items), returns=2)
        return ((value, _result(told)) for value, told in started)

    def with_held(
        self, function: Callable[..., Result], items: Iterable[tuple[Any, Sequence[Any]]]
    ) -> Iterator[Result]:
        """``function(item, *values)`` of each (item, references)."""
        return map(_result, _started(function, items))

    def alone(self, function: Callable[[Item], Result], item: Item) -> Result:
        """``function(item)``, which may use all cores of its node: nothing else of the job is in work."""
        (result,) = map(_result, _started(function, [(item, ())], threads=True))
        return result


def _started(
    function: Callable[..., Any],
    items: Iterable[tuple[Any, Sequence[Any]]],
    title: str = "corpus",
    *,
    returns: int = 1,
    threads: bool = False,
    gpu: bool = False,
) -> Iterator[Any]:
    """The reference of each task, or its references, in order; the oldest once enough others are in work."""
    what, bundle = ("a task of 1 CPU and 1 GPU", {"CPU": 1.0, "GPU": 1.0}) if gpu else ("a task of 1 CPU", {"CPU": 1.0})
    demand = Demand(what, (bundle,), f"use --no-ray, or join a cluster with {'GPUs' if gpu else 'CPUs'} for tasks")
    require(demand)
    _await_room(demand, title)
    shared = ray.put(function)
    name = getattr(function, "func", function)
    said = f"{title}: {getattr(name, '__name__', type(name).__name__)}"
    task = _apply.options(name=said, num_returns=returns, num_gpus=int(gpu))
    waiting: deque[Any] = deque()
    limit = _IN_FLIGHT_PER_CORE * compute_cores()
    for item, handles in items:
        waiting.append(task.remote(threads, shared, item, *handles))
        if len(waiting) >= limit:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _await_room(demand: Demand, title: str) -> None:
    """Return once a task of ours has run; later ones may take long, which is no reason to speak of waiting."""
    notice, first = WaitNotice(demand), _apply.options(name=f"{title}: begin").remote(False, _nothing, None)
    while not ray.wait([first], timeout=POLL_S)[0]:
        check_cluster()
        notice.poll()


def _nothing(_item: None) -> None:
    return None


def _result(reference: Any) -> Any:
    while not ray.wait([reference], timeout=POLL_S)[0]:
        check_cluster()
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise named_cause(error) from error


@ray.remote(num_cpus=1)
def _apply(threads: bool, function: Callable[..., Any], item: Any, *values: Any) -> Any:
    # A tokenizer would start a thread per core in every task; the tasks are the parallelism here.
    os.environ["TOKENIZERS_PARALLELISM"] = str(threads).lower()
    return function(item, *values)
