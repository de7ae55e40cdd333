"""The lake: whether its store answers and how fast, creates only what is absent, agrees on the time; held leases."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from datalake import Lake
from datalake.errors import CredentialsError, StoreRefusedError
from datalake.log.claims import CLAIMS, COLLECTIONS, notes
from datalake.store.addresses import expanded, nearest_existing, parse_address
from datalake.store.conformance import check_writable, read_conformance
from datalake.store.interface import Store
from orchestration.doctor.findings import Add, Finding
from orchestration.runs.view import view_of

SLOW_S = 0.5
ASKED = 5
SKEW_S, LARGE_SKEW_S = 5.0, 300.0
LOOK_S = 10.0  # at runs: a lake may have thousands
NAMED = 8
OLD_NOTE_S = 3600.0

Result = TypeVar("Result")


def local_folder(uri: str) -> Path | None:
    """The folder of a lake on disk; None for one on S3."""
    address = parse_address(uri)
    return Path(os.path.abspath(expanded(address, "lake ="))) if isinstance(address, Path) else None


def check_lake(add: Add, uri: str) -> None:
    """Add what there is to say of the lake at ``uri``. What the store raises ends it, what was added stays."""
    folder = local_folder(uri)
    lake = Lake.open(uri if folder is None else str(folder))
    times = [_timed(lambda: list(lake.store.list(limit=1)))[1] for _ in range(ASKED)]
    empty = not list(lake.store.list(limit=1))
    _add_latency(add, lake.store, times, folder)
    if folder is not None and empty:
        _add_unborn(add, folder)
        return
    check_writable(lake.store)
    _add_writing(add, lake)
    _add_leases(add, lake)
    _add_notes(add, lake)


def _add_latency(add: Add, store: Store, times: list[float], folder: Path | None) -> None:
    median = statistics.median(times)
    facts = {"uri": store.uri, "seconds": [round(each, 4) for each in times]}
    endpoint = ""
    if folder is None and (named := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        endpoint = f" at {urlsplit(named).netloc.rpartition('@')[2]}"
    text = f"{store.uri}{endpoint} answers in {median * 1000:.1f} ms"
    if median > SLOW_S:
        advice = "use a store in the same region, and look at the network between"
        add(Finding("store", "warning", text, advice, facts))
    else:
        add(Finding("store", "ok", text, "", facts))


def _add_unborn(add: Add, folder: Path) -> None:
    above = nearest_existing(folder)
    if os.access(above, os.W_OK | os.X_OK):
        add(Finding("conditional writes", "ok", "not tried: no lake is there yet, the first write makes one"))
    else:
        advice = "give a folder that you may write, by --lake or MORPHOGEN_LAKE"
        add(Finding("conditional writes", "failed", f"no lake is there yet, and {above} cannot be written", advice))


def _add_writing(add: Add, lake: Lake) -> None:
    """Create a small object, try to create it again, and see what time the store gave it; then remove it."""
    store, system = lake.store, lake.system
    key = f"probe/doctor-{system.nonce()}"
    began = system.clock()
    try:
        created, seconds = _timed(lambda: store.put_if_absent(key, b"first"))
    except (StoreRefusedError, CredentialsError) as error:
        advice = "let the role write if this machine is to do more than read"
        add(Finding("conditional writes", "warning", f"these credentials may only read ({error})", advice))
        return
    ended = system.clock()
    try:
        again = store.put_if_absent(key, b"second")
        body, reading = _timed(lambda: store.get(key))
        written = next((info.written for info in store.infos(key) if info.key == key), None)
    finally:
        store.delete(key)
    facts = {"write_seconds": round(seconds, 4), "read_seconds": round(reading, 4)}
    if created and not again and body == b"first":
        record = read_conformance(store)
        known = f"; last probed {record.time}" if record and record.found_by == "probe" else ""
        text = f"one writer wins (write {seconds * 1000:.1f} ms, read {reading * 1000:.1f} ms{known})"
        add(Finding("conditional writes", "ok", text, "" if known else "`morphogen probe` races many writers", facts))
    else:
        advice = "this store must not hold a lake: use another one, or mend it and run `morphogen probe`"
        add(Finding("conditional writes", "failed", "an object that was there was created again", advice, facts))
    _add_clock(add, written, began, ended)


def _add_clock(add: Add, written: datetime | None, began: datetime, ended: datetime) -> None:
    if written is None:
        advice = "use a store that lists what was just written: see `morphogen probe`"
        add(Finding("clock", "failed", "the store does not list an object that it has just taken", advice))
        return
    # S3 tells whole seconds, cut off: the true time is up to a second later.
    least = (written - ended).total_seconds()
    most = (written + timedelta(seconds=1) - began).total_seconds()
    skew = 0.0 if least <= 0 <= most else min(least, most, key=abs)
    facts = {"seconds": round(skew, 1)}
    if abs(skew) <= SKEW_S:
        add(Finding("clock", "ok", "agrees with the store's to about a second", "", facts))
        return
    text = f"{abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} the store's"
    advice = "set the clock (NTP: `timedatectl set-ntp true`, or `chronyc makestep`), here or at the store"
    add(Finding("clock", "failed" if abs(skew) > LARGE_SKEW_S else "warning", text, advice, facts))


def _add_leases(add: Add, lake: Lake) -> None:
    """Runs that are being worked on, and those whose owner is gone."""
    until = time.monotonic() + LOOK_S
    held: list[tuple[str, str]] = []
    lost: list[tuple[str, str]] = []
    seen, cut = 0, ""
    for name in lake.runs.names():
        if time.monotonic() > until:
            cut = f", of the first {seen:,} runs"
            break
        seen += 1
        run = lake.runs.get(name)
        if run.status != "running" or run.retired:
            continue
        view = view_of(lake, run, shown=0)
        (lost if view["state"] == "lost" else held).append((name, view["owner"] or "an unknown process"))
    facts = {"runs": seen, "held": dict(held), "lost": dict(lost)}
    if held or not lost:
        text = f"{len(held)} held{cut}" + (": " + _named(f"{name} by {owner}" for name, owner in held) if held else "")
        advice = "follow them with `morphogen runs follow`, end them with `morphogen runs stop`" if held else ""
        add(Finding("leases", "ok", text, advice, facts))
    if lost:
        text = f"{len(lost)} runs whose owner is gone{cut}: {_named(name for name, _ in lost)}"
        advice = f"`morphogen runs resume {lost[0][0]}` goes on, `morphogen runs delete` gives up"
        add(Finding("leases", "warning", text, advice, facts))


def _add_notes(add: Add, lake: Lake) -> None:
    """Notes of commits and collections that nobody took away: they hold each other off for ever."""
    now = lake.system.clock()
    old = [
        note
        for prefix in (CLAIMS, COLLECTIONS)
        for note in notes(lake.store, prefix)
        if (now - datetime.fromisoformat(note.time)).total_seconds() > OLD_NOTE_S
    ]
    if old:
        text = "left by a commit or a collection an hour ago or more: " + _named(
            f"{each.key} by {each.author}" for each in old
        )
        advice = f"if its process is gone: `morphogen data gc --forget {old[0].key}`"
        add(Finding("notes", "warning", text, advice, {"keys": [each.key for each in old]}))


def _named(names: Iterable[str]) -> str:
    shown = list(names)
    rest = len(shown) - NAMED
    return ", ".join(shown[:NAMED]) + (f", and {rest:,} more" if rest > 0 else "")


def _timed(act: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = act()
    return result, time.perf_counter() - began
