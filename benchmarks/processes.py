"""What processes cost, whoever else is on the machine: the CPU time of one and of all that it started."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cpu_seconds(pid: int | None = None) -> float:
    """CPU seconds so far, user and system, of process ``pid`` (this one by default) and of all it started, directly or
    not: those that run, and those that ended and were waited for. By the kernel's clock of 10 ms."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while we look
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))  # own and ended children's, user and system
    ours = {os.getpid() if pid is None else pid}
    while more := {each for each, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks.get(each, 0) for each in ours) / os.sysconf("SC_CLK_TCK")
