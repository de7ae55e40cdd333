"""`map` on a Ray cluster: results in the order of the items, a bounded number of items in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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


def ray_map(function: Callable[[Item], Result], items: Iterable[Item], *, title: str = "corpus") -> Iterator[Result]:
    """Apply ``function`` to each item in a Ray task, lazily. Ray must be initialised. The dashboard shows ``title``.

    Raises InvalidRequestError for a cluster without a CPU for tasks, and says every 30 s what it waits for.

    A task whose worker dies is run again by Ray, so ``function`` must be harmless to repeat; the error that it raises
    is raised here as it was.
    """
    demand = Demand("a task of 1 CPU", ({"CPU": 1.0},), "use --no-ray, or join a cluster with CPUs for tasks")
    require(demand)
    _await_room(demand, title)
    shared = ray.put(function)
    name = getattr(function, "func", function)
    task = _apply.options(name=f"{title}: {getattr(name, '__name__', type(name).__name__)}")
    waiting: deque[Any] = deque()
    limit = _IN_FLIGHT_PER_CORE * compute_cores()
    for item in items:
        waiting.append(task.remote(shared, item))
        if len(waiting) >= limit:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def _await_room(demand: Demand, title: str) -> None:
    """Return once a task of ours has run; later ones may take long, which is no reason to speak of waiting."""
    notice, first = WaitNotice(demand), _apply.options(name=f"{title}: begin").remote(_nothing, None)
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
def _apply(function: Callable[[Any], Any], item: Any) -> Any:
    # A tokenizer would start a thread per core in every task; the tasks are the parallelism here.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return function(item)
