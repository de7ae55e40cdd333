"""``python -m orchestration.doctor.ray_facts ADDRESS``: what a cluster has, as one line of JSON, without joining it."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import psutil
import ray
from ray._private import services
from ray._private.state import GlobalState
from ray._raylet import GcsClient, GcsClientOptions  # type: ignore[attr-defined]  # compiled

METADATA = b"CLUSTER_METADATA"


def cluster_facts(address: str) -> dict[str, Any]:
    """Nodes, resources (all and free), versions there and here, and whether this machine is a node; or ``error``."""
    if address == "auto":
        found = services.find_bootstrap_address(None)
        if found is None:
            return {"error": "no Ray runs on this machine: start one with `ray start`, or unset the variable"}
        address = found
    client = GcsClient(address=address)
    if not client.cluster_id:
        return {"error": "its head does not say which cluster it is of"}
    raw = client.internal_kv_get(METADATA, b"cluster", 5)
    told = json.loads(raw) if raw else {}
    state = GlobalState()
    state._initialize_global_state(
        GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True)
    )
    alive = [node for node in state.node_table() if node["Alive"]]
    here = {each.address for found in psutil.net_if_addrs().values() for each in found}
    return {
        "address": address,
        "nodes": len(alive),
        "resources": state.cluster_resources(),
        "free": state.available_resources(),
        "ray": told.get("ray_version", "?"),
        "python": told.get("python_version", "?"),
        "ray_here": ray.__version__,
        "python_here": platform.python_version(),
        "member": any(node["NodeManagerAddress"] in here for node in alive),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(cluster_facts(sys.argv[1])))
    except Exception as error:  # noqa: BLE001 - Ray has no one type for what can be wrong with a cluster
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(json.dumps({"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}))
