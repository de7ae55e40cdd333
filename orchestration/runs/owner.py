"""Who works on a run: a process, named so that another one on the same machine can tell at once that it is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Host, process id, and what makes the two unambiguous: the boot, the pid namespace, the process's start."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "place": _place(),
        "started": _started(pid),
        "ray_job": os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAY_SUBMISSION_ID"),
    }


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether that process certainly ended. False if it lives, or lived where this process cannot look."""
    place = _place()
    if place is None or owner.get("place") != place:
        return False
    return _started(int(owner["pid"])) != owner.get("started")


def describe(owner: dict[str, Any]) -> str:
    """``host, process 123``, and the Ray job if it is one."""
    job = owner.get("ray_job")
    return f"{owner.get('host', '?')}, process {owner.get('pid', '?')}" + (f", Ray job {job}" if job else "")


def _place() -> str | None:
    """Machine, boot and pid namespace; None where the system does not say (then nobody there is ever "gone")."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """Start of a process in clock ticks after boot; None if there is none, or only what its parent has yet to reap."""
    try:
        # proc(5): the second field, in brackets, may itself hold spaces and brackets; state is 3rd, start time 22nd.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
