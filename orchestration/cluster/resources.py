"""Whether a job can ever run on the Ray at hand: what it needs at once, what there is, and what is said meanwhile.

Ray queues what does not fit, for ever and without a word. So every job states its demand before it begins: one that the
cluster cannot meet is refused, unless an autoscaler may still bring nodes. While nothing of a job runs yet, it says
every half a minute what it waits for.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import RpcError

from orchestration.cluster.address import cluster_address
from orchestration.cluster.beside import this_node
from orchestration.cluster.cores import local_cores
from orchestration.console.progress import console
from orchestration.errors import ClusterLostError, InvalidRequestError
from orchestration.runs.signals import Stop, seconds_setting

NOTICE_S = 30.0
JOIN_S = 10.0
REJOIN_S = 300.0
START_S = 600.0
COLLECTIVE_S = 1800.0
LOOK_S = 0.5
ASK_S = 5.0
KINDS = ("CPU", "GPU")
AUTOSCALING_STATUS = b"__autoscaling_status"

# A task that reads a rank's rows mostly waits for the store: it must fit beside the training workers' CPUs.
LOADING_CPUS = 0.25

# Ray's own arithmetic is in ten thousandths.
_TINY = 1e-4

Bundle = Mapping[str, float]
"""Resources that one process takes, all on one node: amounts by ``CPU`` and ``GPU``."""


@dataclass(frozen=True)
class Demand:
    """What a job needs at the same time to go on at all.

    ``what`` names the setting and its value ("workers = 4"), ``advice`` what its user can change.
    """

    what: str
    bundles: tuple[Bundle, ...]
    advice: str

    def total(self, kind: str) -> float:
        """The sum over all processes."""
        return sum(bundle.get(kind, 0.0) for bundle in self.bundles)

    @property
    def text(self) -> str:
        """``4.5 CPUs and 2 GPUs``, and how much of it on one node where that is the harder part."""
        said = _amounts({kind: amount for kind in KINDS if (amount := self.total(kind))})
        largest = max(self.bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)))
        alone = len(self.bundles) == 1 and sum(largest.values()) > 1
        return f"{said} on one node" if alone else said


def demand_of_workers(workers: int, use_gpu: bool, what: str = "", *, loads_rows: bool = True) -> Demand:
    """What training workers need: a CPU each, or a GPU, and with ``loads_rows`` the tasks that read their rows."""
    worker: Bundle = {"GPU": 1.0} if use_gpu else {"CPU": 1.0}
    loading: Bundle = {"CPU": LOADING_CPUS}
    return Demand(
        what or f"workers = {workers}",
        (*([worker] * workers), *([loading] * (workers if loads_rows else 0))),
        "use fewer --workers" + (" or --no-gpu" if use_gpu else "") + ", or join a larger cluster",
    )


def fits(bundles: Iterable[Bundle], nodes: Iterable[Bundle]) -> bool:
    """Whether all bundles find room at once: the largest first, each on the first node that can hold it."""
    free = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda each: (each.get("GPU", 0.0), each.get("CPU", 0.0)), reverse=True):
        for node in free:
            if all(node.get(kind, 0.0) + _TINY >= amount for kind, amount in bundle.items()):
                for kind, amount in bundle.items():
                    node[kind] = node.get(kind, 0.0) - amount
                break
        else:
            return False
    return True


def cluster_nodes() -> list[dict[str, float]]:
    """CPUs and GPUs of each live node that stays, whether in use or not."""
    leaving = draining_nodes()
    return [
        {kind: float(node["Resources"].get(kind, 0.0)) for kind in KINDS}
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be taken away, as an autoscaler or `ray drain-node` has announced.

    None of a head that does not answer, which ``check_cluster`` notices. Ray's own ``state.get_draining_nodes`` would
    abort the process then.
    """
    try:
        return set(_client(ray.get_runtime_context().gcs_address).get_draining_nodes(ASK_S))
    except RpcError:
        return set()


@functools.lru_cache(maxsize=1)
def _client(address: str) -> Any:
    """One client of a head: to make one takes as long as the head is away."""
    return GcsClient(address=address)


def require(demand: Demand, stop: Stop | None = None, clock: Callable[[], float] = time.monotonic) -> None:
    """Return if the cluster can hold ``demand``, free or not, or if an autoscaler may make it so.

    A cluster that somebody is still starting gets `MORPHOGEN_CLUSTER_WAIT_S` seconds (10) for its nodes to join; a Ray
    of one's own has all that it will ever have. Raises InvalidRequestError with what was asked for and what there is,
    JobStopped if ``stop`` is set meanwhile.
    """
    waits = cluster_address() is not None
    until = clock() + (_join_seconds() if waits else 0.0)
    said = False
    while not fits(demand.bundles, nodes := cluster_nodes()):
        if waits and autoscales():
            return
        if clock() >= until:
            raise InvalidRequestError(
                f"{demand.what}: that takes {demand.text}, and {_have(nodes)}; {demand.advice}"
                + (", or wait longer for its nodes with MORPHOGEN_CLUSTER_WAIT_S" if waits else "")
            )
        if stop is not None:
            stop.check(" before it began")
        if not said:
            console.print(f"{demand.what} takes {demand.text}, and {_have(nodes)}: waiting for nodes to join")
            said = True
        time.sleep(LOOK_S)


class WaitNotice:
    """Looks every 30 s at what a job waits for, as long as it is asked: says it, and gives up on nodes that are gone.

    A cluster without an autoscaler that has become too small gets `MORPHOGEN_REJOIN_WAIT_S` seconds (300) for its nodes
    to come back, and one that has room for the job `MORPHOGEN_START_WAIT_S` (600) to start its processes: Ray itself
    would wait for ever, as it does for a driver whose node the cluster has given up meanwhile.
    """

    def __init__(
        self,
        demand: Demand,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], Any] = console.print,
    ) -> None:
        self._demand, self._clock, self._say = demand, clock, say
        self._since = self._said = clock()
        self._too_small_since: float | None = None
        self._room_since: float | None = None
        self._rejoin_s, self._start_s = rejoin_seconds(), start_seconds()

    def poll(self, *, started: bool = False) -> None:
        """Nothing of the job has been heard since the last call of ``running``: say what it waits for if it is time.

        Of a job that has ``started`` nothing is said but that the cluster has become too small for it. Raises
        ClusterLostError once it has been for too long, and where waiting is of no use.
        """
        now = self._clock()
        if now - self._said < min(NOTICE_S, self._rejoin_s, self._start_s):
            return
        self._said = now
        if this_node() in _dead_nodes():
            raise ClusterLostError(
                "the cluster has given up the node of this command, as when it was cut off from the head: what is done "
                "is kept; run the same command again"
            )
        nodes = cluster_nodes()
        too_small = not fits(self._demand.bundles, nodes) and not autoscales()
        if not too_small:
            self._too_small_since = None
        elif self._too_small_since is None:
            self._too_small_since = now
        elif now - self._too_small_since >= self._rejoin_s:
            raise ClusterLostError(
                f"{self._demand.what}: that takes {self._demand.text}, and for {now - self._too_small_since:.0f} s "
                f"{_have(nodes)}: what is done is kept; bring the lost nodes back and run the same command again, or "
                f"{self._demand.advice}"
            )
        if started and not too_small:
            return
        nodes_free = state.available_resources_per_node().values()
        free = [{kind: float(node.get(kind, 0.0)) for kind in KINDS} for node in nodes_free]
        if too_small or not fits(self._demand.bundles, free):
            self._room_since = None
        elif self._room_since is None:
            self._room_since = now
        if self._room_since is not None:
            if now - self._room_since >= self._start_s:
                raise ClusterLostError(
                    f"{self._demand.what}: {self._demand.text} have been free for {now - self._room_since:.0f} s, and "
                    "Ray has not started its processes: what is done is kept; run the same command again, or wait "
                    "longer with MORPHOGEN_START_WAIT_S"
                )
            what = f"for {now - self._since:.0f} s for Ray to start {self._demand.what}"
            self._say(
                f"waiting {what}: nothing else is missing ({self._demand.text}), and its processes are on their way"
            )
            return
        amounts = _amounts({kind: sum(node[kind] for node in free) for kind in KINDS})
        self._say(
            f"waiting for {now - self._since:.0f} s for {self._demand.text} ({self._demand.what}): "
            f"{_have(nodes)}, of which {amounts} free now: other work has the rest, or those of its processes that "
            "are up already"
        )

    def running(self) -> None:
        """Something of the job runs: the next wait is a new one."""
        self._since = self._said = self._clock()
        self._too_small_since = self._room_since = None


def _dead_nodes() -> set[str]:
    return {str(node["NodeID"]) for node in ray.nodes() if not node["Alive"]}


def rejoin_seconds() -> float:
    """`MORPHOGEN_REJOIN_WAIT_S`: how long a job waits for lost nodes; InvalidRequestError outside 1 to 86,400."""
    expected = "expected seconds, 1 to 86400; 300 is the default"
    return seconds_setting("MORPHOGEN_REJOIN_WAIT_S", REJOIN_S, lambda seconds: 1 <= seconds <= 86_400, expected)


def start_seconds() -> float:
    """`MORPHOGEN_START_WAIT_S`: how long Ray may take to start what fits; InvalidRequestError outside 1 to 86,400."""
    expected = "expected seconds, 1 to 86400; 600 is the default"
    return seconds_setting("MORPHOGEN_START_WAIT_S", START_S, lambda seconds: 1 <= seconds <= 86_400, expected)


def collective_seconds() -> int:
    """`MORPHOGEN_COLLECTIVE_TIMEOUT_S`: how long a rank waits for another that cannot be reached or does nothing.

    Ray notices a node that is gone by itself; this is for nodes that reach the head and not each other. It must be
    longer than one rank may wait for the store (`--wait-budget`) or heal, and than rows that are made live may take.
    Raises InvalidRequestError outside 5 to 86,400.
    """
    expected = "expected seconds, 5 to 86400; 1800 is the default"
    name, fits_range = "MORPHOGEN_COLLECTIVE_TIMEOUT_S", lambda seconds: 5 <= seconds <= 86_400
    return int(seconds_setting(name, COLLECTIVE_S, fits_range, expected))


def autoscales() -> bool:
    """Whether an autoscaler that can start nodes serves the cluster.

    Every head runs one, but without node types of its own it only mirrors the nodes there are, as types that are named
    ``node_`` and a node's id.
    """
    address = ray.get_runtime_context().gcs_address
    client = _client(address)
    if is_autoscaler_v2(fetch_from_server=True, gcs_client=client):
        status = get_cluster_status(address)
        types = {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes, *status.pending_nodes)}
        types |= {launch.ray_node_type_name for launch in status.pending_launches}
    else:
        raw = client.internal_kv_get(AUTOSCALING_STATUS, None, 5)
        report = (json.loads(raw).get("autoscaler_report") or {}) if raw else {}
        types = {*report.get("active_nodes", {}), *report.get("pending_launches", {})}
    return any(name and not name.startswith("node_") for name in types)


def _join_seconds() -> float:
    expected = "expected seconds, 0 to 86400; 10 is the default"
    return seconds_setting("MORPHOGEN_CLUSTER_WAIT_S", JOIN_S, lambda seconds: 0 <= seconds <= 86_400, expected)


def _have(nodes: Sequence[Bundle]) -> str:
    total = _amounts({kind: sum(node.get(kind, 0.0) for node in nodes) for kind in KINDS})
    if cluster_address() is None and len(nodes) == 1:
        return f"the Ray of this machine ({local_cores()} cores) has {total}"
    most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    where = f"on {len(nodes)} nodes, at most {most:g} CPUs on one" if len(nodes) > 1 else "on one node"
    return f"the cluster has {total} {where}"


def _amounts(amounts: Mapping[str, float]) -> str:
    """``4.5 CPUs and no GPU``."""
    return " and ".join(
        f"{math.ceil(amount * 100) / 100:g} {kind}{'' if amount == 1 else 's'}" if amount else f"no {kind}"
        for kind, amount in amounts.items()
    )
