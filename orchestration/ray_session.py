"""One place that starts or joins Ray.

``RAY_ADDRESS`` names a cluster to join; without it a local one is started for the command and stopped after it.
Inside ``ray job submit`` the job's own cluster is joined and its working directory is what the workers import.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")

OUR_PACKAGES = ("generator", "datalake", "trainer", "orchestration")

# Two Train workers plus their data tasks hang on two logical CPUs, so a laptop's Ray gets some to spare;
# how many processes really compute at once is decided by `compute_cores`.
LOCAL_LOGICAL_CPUS = 4

# A report is no durable commit, but a controller that looks often restarts from the newest checkpoint sooner.
_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


def inside_ray_job() -> bool:
    """Whether this process is the entry point of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def local_cores() -> int:
    """Cores this process may use: its CPU affinity, or less where a container's quota (cgroup v2) allows less."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def compute_cores() -> int:
    """Cores worth a compute-bound worker each: the cluster's CPUs, or this machine's when Ray is the local one."""
    if os.environ.get("RAY_ADDRESS"):
        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    return local_cores()


@contextmanager
def ray_session() -> Iterator[None]:
    """Join ``RAY_ADDRESS`` or start a local Ray; a Ray that the caller already initialised is left alone."""
    if ray.is_initialized():
        yield
        return
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray's own warnings are about its internals; our stages say what is going on.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        if not inside_ray_job():
            modules = [importlib.import_module(name) for name in OUR_PACKAGES]
            options["runtime_env"] = {"py_modules": modules}
        ray.init(address=address, **options)
    else:
        # "local" and not the default: a stale address file of an earlier cluster would mislead the default.
        num_cpus = max(LOCAL_LOGICAL_CPUS, local_cores())
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)
    try:
        yield
    finally:
        ray.shutdown()
