"""Actors that a driver cannot do without, on the driver's own node: no other node's end takes them along."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_driver(kind: type, *arguments: Any) -> Any:
    """Start an actor of class ``kind``, which takes no CPU, on the node of this process if it can be there."""
    # Softly, for a node that drains takes nothing new.
    strategy = NodeAffinitySchedulingStrategy(this_node(), soft=True)
    actor: Any = ray.remote(num_cpus=0)(kind)
    return actor.options(scheduling_strategy=strategy).remote(*arguments)


def this_node() -> str:
    """The id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
