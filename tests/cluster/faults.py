"""What can happen to hosts and the network between them: each fault strikes, perhaps lasts, and is undone or stays."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from tests.cluster.hosts import Host
from tests.cluster.site import Site

Undo = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """``kind`` strikes once the job is ``level`` far; ``seconds`` is how long it lasts, 0: it stays."""

    kind: str
    level: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.level}" + (f" for {self.seconds:g} s" if self.seconds else "")


# How long each lasts: cuts are longer than the 12 s after which Ray gives a silent node up, a reboot takes 20 s.
LASTS = {
    "worker gone": 0.0,
    "worker gone and back": 20.0,
    "worker rebooted": 20.0,
    "worker cut off from head": 25.0,
    "worker cut off from store": 25.0,
    "workers parted": 40.0,
    "driver gone": 0.0,
    "driver cut off": 35.0,
    "driver cut off from head": 35.0,
    "head anew": 0.0,
    "head elsewhere": 0.0,
    "store away": 5.0,
    "store gone": 60.0,
    "halves": 35.0,
}


def strike(fault: Fault, site: Site, driver: Host, rng: random.Random) -> Undo:
    """Do it, to the host of the driver or to one that works for it; returns what undoes it."""
    others = [host for host in site.workers if host.up and host not in (driver, site.desk)]
    training = [host for host in others if host.processes("ray::RayTrainWorker")]
    target = rng.choice(training or [host for host in others if host.processes("ray::ShardWorker")] or others)
    match fault.kind:
        case "worker gone":
            site.power_off(target)
            return _nothing
        case "worker gone and back":
            site.unplug(target)
            return lambda: site.plug(target)
        case "worker rebooted":
            site.power_off(target)
            return lambda: site.restart(target)
        case "worker cut off from head":
            return _cut(site, [(target, site.head)])
        case "worker cut off from store":
            return _cut(site, [(target, site.store)])
        case "workers parted":
            rest = [host for host in site.workers if host.up and host is not target]
            return _cut(site, [(target, host) for host in rest])
        case "driver gone":
            site.power_off(driver)
            return _nothing
        case "driver cut off":
            site.unplug(driver)
            return lambda: site.plug(driver)
        case "driver cut off from head":
            return _cut(site, [(driver, site.head)])
        case "head anew":
            site.power_off(site.head)
            site.network.power_on(site.head)
            site.start_head(site.head)
            return _nothing
        case "head elsewhere":
            return _move_head(site, rng.choice(others))
        case "store away" | "store gone":
            site.unplug(site.store)
            return lambda: site.plug(site.store)
        case "halves":
            return _cut(site, list(product([target], [host for host in site.hosts.values() if host is not target])))
    raise AssertionError(fault.kind)


def _nothing() -> None:
    pass


def _cut(site: Site, pairs: list[tuple[Host, Host]]) -> Undo:
    for pair in pairs:
        site.cut(*pair)

    def undo() -> None:
        for pair in pairs:
            site.join(*pair)

    return undo


def _move_head(site: Site, host: Host) -> Undo:
    """The head's host is gone for good, and a head is started on a worker's, which gives its CPU up."""
    site.power_off(site.head)
    site.power_off(host)
    site.network.power_on(host)
    site.start_head(host)
    site.point_to_head()
    return _nothing
