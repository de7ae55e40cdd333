"""The Ray cluster that ``RAY_ADDRESS`` names: whether it answers, what it has, and whether this machine can join it.

Ray takes seconds to import and may wait for minutes: it is asked in a process of its own, which a deadline ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from orchestration.cluster.address import VARIABLE, check_head, cluster_address
from orchestration.doctor.findings import Add, Finding

ASK_TIMEOUT_S = 20.0


def check_ray(add: Add, timeout_s: float = ASK_TIMEOUT_S) -> None:
    """Add what the cluster has, and what keeps this machine from joining it. Raises what an address can be wrong in."""
    address = cluster_address()
    if address is None:
        add(Finding("ray", "ok", f"{VARIABLE} is not set: every job starts a Ray of its own, and ends it"))
        return
    if address != "auto":
        check_head(address)
    facts = _ask(address, timeout_s)
    if (problem := facts.pop("error", None)) is not None:
        advice = "look at `ray status` on its head; versions of Ray and Python and the token must be the cluster's"
        add(Finding("ray", "failed", f"{VARIABLE} = {address}: {problem}", advice))
        return
    total, free = facts["resources"], facts["free"]
    amounts = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s free" for kind in ("CPU", "GPU"))
    text = f"{facts['address']}: {facts['nodes']} nodes, {amounts}, Ray {facts['ray']}, Python {facts['python']}"
    if facts["ray"] != facts["ray_here"] or facts["python"] != facts["python_here"]:
        found = f"{text}; here Ray {facts['ray_here']}, Python {facts['python_here']}"
        add(Finding("ray", "failed", found, "install the cluster's versions here, or ours on its nodes", facts))
    elif not facts["nodes"] or not total.get("CPU"):
        add(Finding("ray", "failed", text, "no node gives CPUs: start some with `ray start --address`", facts))
    elif not facts["member"]:
        advice = "this machine is none of its nodes: `ray start --address` it, or send jobs with `ray job submit`"
        add(Finding("ray", "warning", text, advice, facts))
    else:
        add(Finding("ray", "ok", text, "", facts))


def _ask(address: str, timeout_s: float) -> dict[str, Any]:
    """What ``orchestration.doctor.ray_facts`` prints, or {"error": why it does not}."""
    command = [sys.executable, "-m", "orchestration.doctor.ray_facts", address]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"the head answers at its port, and no question of Ray's within {timeout_s:g} s"}
    lines = answer.stdout.splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        said = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        return {"error": f"asking Ray failed ({said[-1]})"}
