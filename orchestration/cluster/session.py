"""One place that starts or joins Ray.

``RAY_ADDRESS`` names a cluster to join. Without it the Ray that `morphogen ray start` keeps is joined, if it suits, or
a local one is started for the command and stopped after it.
Inside ``ray job submit`` the job's own cluster is joined and its working directory is what the workers import.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import ray
from ray._private import services
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.exceptions import RayActorError, RayError

from orchestration.cluster.address import VARIABLE, cannot_join, check_head, cluster_address
from orchestration.cluster.cores import local_cores
from orchestration.cluster.head import Head, await_cluster, joined_head, leave_without_head
from orchestration.cluster.kept import START_ATTEMPTS, START_TIMEOUT, KeptRay, kept_ray, start_kept, using
from orchestration.cluster.ray_token import bring_token, give_token, keep_token
from orchestration.cluster.submitted import inside_ray_job
from orchestration.console.progress import console
from orchestration.errors import ClusterLostError, InvalidRequestError
from orchestration.folders import ray_folder

OUR_PACKAGES = ("generator", "datalake", "trainer", "orchestration")

# Two Train workers plus their data tasks hang on two logical CPUs, so a laptop's Ray gets some to spare;
# how many processes really compute at once is decided by `compute_cores`.
LOCAL_LOGICAL_CPUS = 4

# More processes than cores are slow and yet right, as long as memory bears them: Ray starts one for each logical CPU.
LOGICAL_CPUS_PER_CORE = 4
MOST_LOGICAL_CPUS = 16

API_SERVER = "RAY_API_SERVER_ADDRESS"
NOBODY = "http://127.0.0.1:9"

_ENVIRONMENT = {
    # A report is no durable commit, but a controller that looks often restarts from the newest checkpoint sooner.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A process for what a run looks after itself (training/resizing.py).
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray's processes have tens of threads, and glibc's arena for each fills with holes while rows come and go.
    "MALLOC_ARENA_MAX": "2",
    # A job that stops leaves tasks behind; Ray would print the trace of each whose end nobody asked for.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


_without_dashboard = False


def without_dashboard() -> bool:
    """Whether ``ray_session`` has joined a Ray of this machine: nobody can ask it for its state, and it never grows."""
    return _without_dashboard


def compute_cores() -> int:
    """Cores worth a compute-bound worker each: the cluster's CPUs, or this machine's when Ray is the local one."""
    if cluster_address():
        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    return local_cores()


def cluster_facts() -> dict[str, Any]:
    """What the cluster that Ray is connected to has, for a run's record."""
    total = ray.cluster_resources()
    kept = kept_ray()
    # By the port: Ray gives the address of this machine another form than it was started with.
    port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
    joined_kept = kept is not None and kept.address.rpartition(":")[2] == port
    return {
        "nodes": sum(bool(node["Alive"]) for node in ray.nodes()),
        "cpus": int(total.get("CPU", 0)),
        "gpus": int(total.get("GPU", 0)),
        "cluster": cluster_address() or ("kept" if joined_kept else "local"),
        "driver": socket.gethostname(),
    }


@contextmanager
def ray_session(cpus: float = 0) -> Iterator[None]:
    """Join ``RAY_ADDRESS`` or start a local Ray; a Ray that the caller already initialised is left alone.

    A local one gets ``cpus`` logical CPUs if the machine has fewer: what the processes of the job that it is for need
    at once. Raises InvalidRequestError for an address that cannot be a cluster's, ClusterLostError if none is there.
    """
    if ray.is_initialized():
        yield
        return
    _prepare_environment()
    # Ray's own warnings are about its internals; our stages say what is going on.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = cluster_address()
    with ExitStack() as stack:
        with _our_sigterm():
            if address:
                if not inside_ray_job():
                    modules = [importlib.import_module(name) for name in OUR_PACKAGES]
                    options["runtime_env"] = {"py_modules": modules}
                _join(address, options)
            else:
                if not _join_kept(options, cpus, stack):
                    _start(options, cpus)
                stack.enter_context(_noting_no_dashboard())
        stack.enter_context(leave_without_head(joined_head()))
        try:
            yield
        except ClusterLostError:
            raise  # nothing answers that could be told
        except RayError as error:
            await_cluster()
            ray.shutdown()
            if isinstance(error, RayActorError) and not error.actor_init_failed:
                raise ClusterLostError(
                    f"an actor that this job needs is gone ({type(error).__name__}), as when its node was cut off from "
                    "the cluster: what is done is kept; run the same command again"
                ) from error
            raise
        except BaseException:
            ray.shutdown()
            raise
        else:
            ray.shutdown()


def keep_ray(cpus: int | None, poll: Callable[[float], None]) -> KeptRay:
    """Start the Ray that later commands join, with ``cpus`` logical CPUs (what one of a command's own has, by default).

    ``poll`` hears how many seconds it has taken. Raises InvalidRequestError if there is one or it could not be used,
    ClusterLostError if it does not start.
    """
    usual = _logical_cpus(0)
    if cpus is not None and cpus < usual:
        raise InvalidRequestError(
            f"cpus = {cpus}: commands expect at least {usual}; give that or more, or leave it out"
        )
    _prepare_environment()
    keep_token()
    return start_kept(cpus or usual, {API_SERVER: NOBODY}, poll)


def _prepare_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _join_kept(options: dict[str, Any], cpus: float, stack: ExitStack) -> bool:
    """Join the Ray that is kept, until ``stack`` ends; False, told why, where there is none that suits."""
    kept = None if os.environ.get(VARIABLE, "").strip() else kept_ray()  # "local" asks for one of its own
    if kept is None:
        return False
    problem = kept.differs(_logical_cpus(cpus))
    if problem is None:
        try:
            stack.enter_context(using(kept))
        except ClusterLostError:
            problem = "it does not answer"
        else:
            _join(kept.address, options)
            return True
    console.print(f"the kept Ray is left alone: {problem} (`morphogen ray stop` ends it); this command starts its own")
    return False


@contextmanager
def _no_dashboard() -> Iterator[None]:
    """Let the processes started meanwhile know that this Ray has no dashboard.

    Ray Train asks the dashboard whether its controller lives. Told nothing it looks for one for 40 s, and a training
    that is over sooner waits 12 s for that; told of another cluster's, it would take its own controller for dead.
    """
    before = os.environ.get(API_SERVER)
    os.environ[API_SERVER] = NOBODY
    try:
        yield
    finally:
        if before is None:
            del os.environ[API_SERVER]
        else:
            os.environ[API_SERVER] = before


@contextmanager
def whole_start() -> Iterator[None]:
    """End what a start of Ray in the block has started if it fails: the next attempt would find a busier machine."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        yield
    except BaseException:
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        raise


def _logical_cpus(cpus: float) -> int:
    """What a Ray of this machine gets for a job that needs ``cpus`` at once."""
    cores = local_cores()
    most = max(MOST_LOGICAL_CPUS, LOGICAL_CPUS_PER_CORE * cores)
    return max(LOCAL_LOGICAL_CPUS, cores, min(math.ceil(cpus), most))


def _start(options: dict[str, Any], cpus: float = 0) -> None:
    num_cpus = _logical_cpus(cpus)
    if (folder := ray_folder()) is not None:
        options["_temp_dir"] = folder
    bring_token()
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            # "local" and not the default: a stale address file of an earlier cluster would mislead the default.
            with _no_dashboard(), whole_start():
                ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)
        except Exception as error:  # Ray has no narrower type for it
            if START_TIMEOUT not in str(error):
                said = (str(error).strip().splitlines() or [""])[0]
                raise ClusterLostError(
                    f"Ray cannot start on this machine ({type(error).__name__}: {said}): mend that, or set RAY_ADDRESS "
                    "to a running cluster"
                ) from error
            if attempt == START_ATTEMPTS:
                raise ClusterLostError(
                    f"Ray did not start on this machine within 30 s, {attempt} times: it may be too busy or out of "
                    "memory; wait, or set RAY_ADDRESS to a running cluster, then run the same command again"
                ) from error
            console.print("Ray did not start within the 30 s it gives itself: this machine is busy; once more")
        else:
            return


def _join(address: str, options: dict[str, Any]) -> None:
    address = _found_head() if address == "auto" else address
    check_head(address)
    give_token(address)
    try:
        with leave_without_head(Head(address)):
            if not GcsClient(address=address).cluster_id:
                raise ConnectionError("its head does not say which cluster it is of")
            ray.init(address=address, **options)
    except Exception as error:  # Ray has no one type for what can be wrong with a cluster
        raise cannot_join(address, error) from error


def _found_head() -> str:
    """What "auto" means: the cluster that a Ray of this machine belongs to."""
    address = services.find_bootstrap_address(None)
    if address is None:
        raise ClusterLostError(
            "RAY_ADDRESS = auto: no Ray runs on this machine; start one with `ray start`, give HOST:PORT of a "
            "cluster's head, or unset the variable"
        )
    return address


@contextmanager
def _noting_no_dashboard() -> Iterator[None]:
    global _without_dashboard
    _without_dashboard = True
    try:
        yield
    finally:
        _without_dashboard = False


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """ray.init replaces the handler of SIGTERM by one that exits at once; put back the one that stops a job well."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread() and callable(handler):
        signal.signal(signal.SIGTERM, handler)
