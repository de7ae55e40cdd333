"""``python -m orchestration.cluster.drain``: end this container's jobs in good order, before the container is killed.

Kubernetes signals a container's first process, which in a Ray pod is a shell that passes nothing on. As the pod's
preStop hook this command does it. Ray hears that the node will be taken away, so that trainings which have a worker on
it checkpoint and go on elsewhere, and nothing new is sent here; the drivers of jobs get SIGTERM and their grace; on a
pod without one it waits until Ray's workers have nothing left to do.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import psutil

from orchestration.runs.signals import grace_seconds

MARGIN_S = 10.0  # between the end of a job's own grace and the kill: Ray is shut down, the last bytes are sent
LOOK_S = 0.5

# Titles of what a node runs for itself: idle workers, its agents, actors of Ray's own libraries, which outlive jobs.
NO_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_")


def main(arguments: Sequence[str] | None = None) -> int:
    """Drain; 0 once nothing is at work any more, 1 if something still is when the grace and a margin are over."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration.cluster.drain", description="End the jobs of a container."
    )
    parser.add_argument("--below", type=int, default=1, metavar="PID", help="only what descends from this process")
    below = parser.parse_args(arguments).below
    deadline = time.monotonic() + grace_seconds() + MARGIN_S
    for raylet in _descendants(below):
        _announce(_command(raylet))
    drivers = [process for process in _descendants(below) if is_driver(_command(process))]
    for driver in drivers:
        print(f"asking process {driver.pid} to stop", flush=True)
        with suppress(psutil.NoSuchProcess):
            driver.terminate()
    if drivers:
        _, alive = psutil.wait_procs(drivers, timeout=deadline - time.monotonic())
        return 1 if alive else 0
    while any(is_working(_command(process)) for process in _descendants(below)):
        if time.monotonic() >= deadline:
            return 1
        time.sleep(LOOK_S)
    return 0


def node_of(command: Sequence[str]) -> tuple[str, str] | None:
    """The node's id and its head's address if this command line is that of a worker node's raylet."""
    if not command or os.path.basename(command[0]) != "raylet" or "--head" in command:
        return None
    options = dict(word.removeprefix("--").split("=", 1) for word in command[1:] if "=" in word)
    return (options["node_id"], options["gcs-address"]) if {"node_id", "gcs-address"} <= options.keys() else None


def _announce(command: Sequence[str]) -> None:
    """Tell Ray that the node of this raylet will be gone when the grace is over."""
    found = node_of(command)
    if found is None:
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.core.generated import autoscaler_pb2

    node, head = found
    gone_at = int((time.time() + grace_seconds() + MARGIN_S) * 1000)
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]  # made when the module is loaded
    try:
        accepted, problem = GcsClient(address=head).drain_node(node, reason, "its container is about to end", gone_at)
    except Exception as error:  # noqa: BLE001 - Ray names no type; a node that cannot say so still has its jobs to end
        accepted, problem = False, str(error)
    print(f"node {node}: {'drains' if accepted else f'could not be announced to drain: {problem}'}", flush=True)


def is_driver(command: Sequence[str]) -> bool:
    """Whether this command line runs one of our commands: ``python -m orchestration …`` or ``morphogen …``."""
    module = any(pair == ("-m", "orchestration") for pair in pairwise(command))
    return module or any(os.path.basename(word) == "morphogen" for word in command[:2])


def is_working(command: Sequence[str]) -> bool:
    """Whether this is a Ray worker that has a task or an actor of a job; Ray writes it in the worker's title."""
    title = " ".join(command)
    return title.startswith("ray::") and not title.startswith(NO_WORK)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in found if process.pid != os.getpid()]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


if __name__ == "__main__":
    sys.exit(main())
