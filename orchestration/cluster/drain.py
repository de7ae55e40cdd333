"""``python -m orchestration.cluster.drain``: end this container's jobs in good order, before the container is killed.

Kubernetes signals a container's first process, which in a Ray pod is a shell that passes nothing on. As the pod's
preStop hook this command does it: the drivers of jobs get SIGTERM and their grace; on a pod without one it waits until
Ray's workers have nothing left to do, because a driver elsewhere is ending them or they end by themselves.
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Drain; 0 once nothing is at work any more, 1 if something still is when the grace and a margin are over."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration.cluster.drain", description="End the jobs of a container."
    )
    parser.add_argument("--below", type=int, default=1, metavar="PID", help="only what descends from this process")
    below = parser.parse_args(arguments).below
    deadline = time.monotonic() + grace_seconds() + MARGIN_S
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


def is_driver(command: Sequence[str]) -> bool:
    """Whether this command line runs one of our commands: ``python -m orchestration …`` or ``morphogen …``."""
    module = any(pair == ("-m", "orchestration") for pair in pairwise(command))
    return module or any(os.path.basename(word) == "morphogen" for word in command[:2])


def is_working(command: Sequence[str]) -> bool:
    """Whether this is a Ray worker that has a task or an actor; Ray writes it in the worker's title."""
    title = " ".join(command)
    return title.startswith("ray::") and not title.startswith("ray::IDLE")


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
