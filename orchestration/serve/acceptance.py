"""Measuring a spec's acceptance beside the server: costed first, then in a process of its own that a deadline ends.

A check holds no thread of the server. One runs at a time; others wait in line, so many in all and so many for one
sender, and more are told to come again. The process limits its own CPU time by a timer of the kernel, whose signal ends
it also inside a compiled kernel, and even if the server is no longer there.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

from generator import BandError, GenerationSpec
from generator.accept import refuse_impossible
from generator.batch import ENOUGH
from generator.cost import least_check_cost
from orchestration.errors import InvalidRequestError, OrchestrationError

_REMEMBERED = 256


class SpecCostError(InvalidRequestError):
    """Measuring the spec's acceptance takes more than the server gives a request."""


class BusyError(OrchestrationError):
    """The server has as much to do as it takes on: ask again after ``retry_after_s`` seconds."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class _Overrun(Exception):
    """The process used up its CPU time."""


@dataclass(frozen=True)
class CheckLimits:
    """What one check may cost and how many may wait.

    ``operations`` is the generator's own measure (10**10 are about a second of one core) of the least that the check
    takes, ``bytes`` its working memory. ``cpu_s`` ends the measuring, ``wall_s`` waiting and measuring together.
    ``waiting`` checks may stand in line, ``waiting_each`` of one sender.
    """

    operations: int = 2 * 10**11
    bytes: int = 1 << 30
    cpu_s: float = 30.0
    wall_s: float = 45.0
    waiting: int = 8
    waiting_each: int = 4


class AcceptanceChecks:
    """The checks of one server. Used from its event loop only; ``close`` ends the process."""

    def __init__(self, limits: CheckLimits) -> None:
        self._limits = limits
        self._turn = asyncio.Lock()
        self._asked: Counter[str] = Counter()
        self._verdicts: OrderedDict[str, str | None] = OrderedDict()
        self._child: asyncio.subprocess.Process | None = None
        self._ending: list[asyncio.subprocess.Process] = []

    async def check(self, spec: GenerationSpec, sender: str) -> None:
        """Raise BandError unless enough of the spec's candidates meet its band; at once without a band.

        Raises SpecCostError, before any work, for a spec whose check costs more than the limits, and after ``cpu_s`` of
        work; BusyError where too many wait, or the line took longer than ``wall_s``. Cancelling it ends the work.
        """
        if spec.accept_band is None:
            return
        await asyncio.to_thread(refuse_impossible, spec)  # milliseconds, and kept
        self._refuse_costly(spec)
        key = spec.canonical_json()
        if key not in self._verdicts:
            limits = self._limits
            if self._asked.total() >= limits.waiting + 1 or self._asked[sender] >= limits.waiting_each:
                raise BusyError(
                    f"{self._asked.total()} specs wait for the measuring of their bands, {self._asked[sender]} of them "
                    f"yours; allowed are {limits.waiting} and {limits.waiting_each}: ask again a little later",
                    math.ceil(limits.cpu_s),
                )
            self._asked[sender] += 1
            try:
                async with asyncio.timeout(limits.wall_s), self._turn:
                    if key not in self._verdicts:
                        self._remember(key, await self._measured(spec))
            except TimeoutError:
                raise BusyError(
                    f"the measuring of the spec's band did not end within {limits.wall_s:g} s of waiting and work: ask "
                    "again a little later",
                    math.ceil(limits.cpu_s),
                ) from None
            except _Overrun:
                raise SpecCostError(
                    f"band: measuring how often it is met took more than {limits.cpu_s:g} s of CPU time; lower "
                    f"`burn_in`, `stride` or `grid`, or widen the band; {_BY_HAND}"
                ) from None
            finally:
                self._asked[sender] -= 1
                self._asked += Counter()  # forgets senders of whom none waits
        if (refusal := self._verdicts[key]) is not None:
            raise BandError(refusal)

    async def close(self) -> None:
        """End the process, whatever it is doing."""
        self._kill()
        await asyncio.gather(*(child.wait() for child in self._ending))

    def _kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            self._ending = [*(child for child in self._ending if child.returncode is None), self._child]
        self._child = None

    def _refuse_costly(self, spec: GenerationSpec) -> None:
        cost, limits = least_check_cost(spec, ENOUGH), self._limits
        for found, allowed, what in (
            (cost.operations, limits.operations, "operations"),
            (cost.bytes, limits.bytes, "bytes of memory"),
        ):
            if found > allowed:
                raise SpecCostError(
                    f"band: measuring how often it is met takes at least {found:.2g} {what} ({cost.updates:,} cell "
                    f"updates); allowed here are {allowed:.2g}; lower `burn_in`, `stride`, `grid` or "
                    f"`sequences_per_rule`; {_BY_HAND}"
                )

    def _remember(self, key: str, refusal: str | None) -> None:
        self._verdicts[key] = refusal
        while len(self._verdicts) > _REMEMBERED:
            self._verdicts.popitem(last=False)

    async def _measured(self, spec: GenerationSpec) -> str | None:
        """The refusal, or None, of a spec, from the process; it is killed where the answer is not waited for."""
        child = await self._process()
        assert child.stdin is not None
        assert child.stdout is not None
        question = {"spec": spec.model_dump(mode="json"), "cpu_s": self._limits.cpu_s}
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            line = await child.stdout.readline()
            if line:
                answer: dict[str, Any] = json.loads(line)
                return answer["refusal"]
            status = await child.wait()
        except BaseException:
            self._kill()
            raise
        self._child = None
        if status == -signal.SIGPROF:
            raise _Overrun
        raise BusyError(f"the process that measures bands ended with status {status}: ask again a little later", 2)

    async def _process(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "orchestration.serve.acceptance_child",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C at a terminal is the server's alone; it then ends this one
            )  # fmt: skip
        return self._child


_BY_HAND = "`morphogen params put` on a machine of your own has no such limit"
