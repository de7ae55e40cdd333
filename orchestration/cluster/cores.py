"""The cores of this machine that this process may use; told without Ray."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def local_cores() -> int:
    """Cores this process may use: its CPU affinity, or less where a container's quota (cgroup v2) allows less."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
