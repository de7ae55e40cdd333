"""Measuring a band beside the server: costed first, in a process that a deadline or a leaving client really ends."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

import httpx
import pytest

from generator import BandError, GenerationSpec, parse_spec
from orchestration.serve.acceptance import AcceptanceChecks, BusyError, CheckLimits, SpecCostError
from tests.serve.conftest import Site
from tests.serve.lake_content import SPEC

QUICK = {**SPEC, "band": {"score": "gzip-int32-v1-normalized", "low": 0.1, "high": 0.9}}
# Not beyond the alphabet, but hardly ever met: thousands of candidates of a quarter of a second each.
ENDLESS = {"grid": [64, 64], "colors": 10, "burn_in": 200, "band": {"low": 0.69, "high": 0.74}}


def run(limits: CheckLimits, work: Any) -> Any:
    """``work(checks)`` on an event loop of its own; its process is ended with it."""

    async def inside() -> Any:
        checks = AcceptanceChecks(limits)
        try:
            return await work(checks)
        finally:
            await checks.close()

    return asyncio.run(inside())


def spec(fields: dict) -> GenerationSpec:
    return parse_spec(fields)


def gone(pid: int) -> bool:
    """Whether a process that was ours has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_costly_spec_is_refused_before_any_work():
    async def work(checks: AcceptanceChecks) -> None:
        band = {"low": 0.1, "high": 0.2}
        for fields in (
            {"grid": [256, 256], "colors": 2, "burn_in": 2000, "band": band},
            {"grid": [128, 128], "sequences_per_rule": 4096, "band": band},
            {"sequences_per_rule": 4096, "grid": [4, 4], "seq_len": 65536, "burn_in": 0, "band": band},
        ):
            with pytest.raises(SpecCostError, match="allowed here are"):
                await checks.check(spec(fields), "ada")
        await checks.check(spec({"grid": [256, 256], "colors": 2, "burn_in": 2000}), "ada")  # no band, no work
        assert checks._child is None, "nothing was to be measured, so there is no process"

    run(CheckLimits(), work)


def test_verdicts_are_kept_and_cpu_time_is_bounded():
    async def work(checks: AcceptanceChecks) -> None:
        rare = {**QUICK, "band": {**QUICK["band"], "low": 1.09, "high": 1.1}}
        await checks.check(spec(QUICK), "ada")
        for _ in range(2):
            with pytest.raises(BandError, match="hardly met"):
                await checks.check(spec(rare), "ada")
        assert len(checks._verdicts) == 2
        with pytest.raises(SpecCostError, match="CPU time"):
            await checks.check(spec(ENDLESS), "ada")

    run(CheckLimits(operations=10**15, cpu_s=2.0, wall_s=120.0), work)


def test_a_check_that_nobody_waits_for_ends_and_the_line_is_bounded():
    async def work(checks: AcceptanceChecks) -> None:
        endless: Coroutine[Any, Any, None] = checks.check(spec(ENDLESS), "ada")
        first = asyncio.ensure_future(endless)
        second = asyncio.ensure_future(checks.check(spec(ENDLESS | {"burn_in": 201}), "ada"))
        third = asyncio.ensure_future(checks.check(spec(QUICK), "bob"))
        while checks._child is None:
            await asyncio.sleep(0.01)
        process = checks._child
        with pytest.raises(BusyError, match="2 of them yours") as busy:
            await checks.check(spec(QUICK), "ada")
        assert busy.value.retry_after_s > 0
        with pytest.raises(BusyError):
            await checks.check(spec(QUICK), "eve")  # the line itself is full
        for task in (second, first):
            task.cancel()
        await third  # its turn comes at once
        assert await process.wait() != 0
        assert gone(process.pid)
        assert not +checks._asked

    run(CheckLimits(operations=10**15, wall_s=120.0, waiting=2, waiting_each=2), work)


def test_a_wait_that_takes_too_long_is_ended():
    async def work(checks: AcceptanceChecks) -> None:
        with pytest.raises(BusyError, match="did not end within"):
            await checks.check(spec(ENDLESS), "ada")

    run(CheckLimits(operations=10**15, wall_s=0.5), work)


def test_many_costly_puts_leave_the_server_answering(site: Site):
    band_beyond = {"grid": [256, 256], "colors": 2, "burn_in": 2000, "band": {"low": 3.9, "high": 4.0}}
    refused = site.api().put("/params/hostile", json={"spec": band_beyond})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:morphogen:error:BandError")
    costly = band_beyond | {"band": {"low": 0.1, "high": 0.2}}
    refused = site.api().put("/params/hostile", json={"spec": costly})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:morphogen:error:SpecCostError")

    statuses: list[int] = []

    def put(number: int) -> None:
        try:
            body = {"spec": ENDLESS | {"burn_in": 200 + number}}
            answer = site.api().put("/params/hostile", json=body, timeout=httpx.Timeout(4.0))
            statuses.append(answer.status_code)
            assert answer.status_code != 503 or int(answer.headers["retry-after"]) > 0
        except httpx.ReadTimeout:
            statuses.append(0)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(42)]
    for thread in threads:
        thread.start()
    reader = site.api("reader")
    for _ in range(5):
        assert reader.get("/ready").status_code == 200
        assert reader.get("/params").status_code == 200
        assert site.api().put("/params/no-band", json={"spec": SPEC}).status_code in (200, 201)
    for thread in threads:
        thread.join()
    assert statuses.count(503) >= 42 - 4, statuses
    # Those that left make room at once.
    assert site.api("admin").put("/params/with-band", json={"spec": QUICK | {"hidden": 6}}).status_code == 201
    assert "hostile" not in list(site.lake.params.names())
