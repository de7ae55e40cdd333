"""Own a run: acquire its lease if no live process has it, send heartbeats while working, record how the run ended.

The run's log decides who may write (``datalake.runs.run``); the heartbeat only tells the living from the dead. An owner
beats every couple of seconds and at each beat looks whether it was asked to stop or has lost the run. Whoever wants a
run that somebody holds is refused as soon as a beat is seen, and gets it once none has come for ``LEASE_S``, or at
once if the owner was a process of this machine that is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from datalake import Lake, Run
from datalake.errors import (
    DatalakeError,
    NotFoundError,
    RunConflictError,
    RunFencedError,
    RunHeldError,
    StoreUnavailableError,
)
from orchestration.console.progress import console
from orchestration.errors import JobStopped
from orchestration.runs.owner import describe, is_gone, this_process
from orchestration.runs.signals import GraceOver, Stop, seconds_setting, unwrapping
from orchestration.runs.speed import Speed
from orchestration.telemetry import driver_telemetry

LEASE_S = 15.0
BEATS_PER_LEASE = 7.5  # every 2 s: several may be late before anyone believes the owner dead
TICK_S = 0.2
NOTICE_S = 30.0


def lease_seconds() -> float:
    """`MORPHOGEN_LEASE_S`: silence after which an owner counts as dead; InvalidRequestError outside 1 to 3,600."""
    expected = "expected 1 to 3600 seconds; 15 is the default"
    return seconds_setting("MORPHOGEN_LEASE_S", LEASE_S, lambda seconds: 1 <= seconds <= 3600, expected)


class RunLease:
    """A run that this process works on, and the thread that beats for it. A finished run is held in name only."""

    def __init__(self, lake: Lake, run: Run, stop: Stop) -> None:
        self.run = run
        self.stop = stop
        self.stopping = threading.Event()  # set soon after ``stop`` is, after a request in the lake, and when lost
        self.finished = run.status == "finished"
        self._lake = lake
        self._record = run.for_another_thread()  # the heartbeat thread's own reading of the run's log
        self._progress: dict[str, Any] = {}
        self._speed = Speed()
        self._beats = 0
        self._error: Exception | None = None
        self._outage: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"beat {run.name}", daemon=True)

    def advance(self, done: float, of: float, unit: str, note: str = "") -> None:
        """Say how far the job is; the next beat carries it."""
        speed = self._speed.see(done, unit)
        self._progress = {"done": done, "of": of, "unit": unit, "note": note}
        if speed is not None:
            self._progress["per_second"] = float(f"{speed:.4g}")

    def fault(self, kind: str, *, new_attempt: bool = False, **facts: Any) -> None:
        """Note in the record what went wrong and was survived; a store that is away costs the note, not the job."""
        if self.finished:
            return
        try:
            self.run.add_fault(kind, facts, new_attempt=new_attempt)
        except StoreUnavailableError as error:
            console.print(f"run {self.run.name}: a fault ({kind}) could not be noted: {error}", markup=False)

    def ask_workers(self) -> None:
        """Pass the wish to stop on to the workers of this run, which look into its log."""
        with suppress(RunConflictError):  # it has just finished: nothing is left to stop
            self._lake.runs.ask_stop(self.run.name, self.stop.reason)

    def check(self) -> None:
        """Raise RunFencedError if another process has the run now, or what keeps this one from knowing."""
        if self._error is not None:
            raise self._error

    def check_going(self, where: str) -> None:
        """Raise as ``check`` does, and JobStopped if the job is to stop; ``where`` says how far it is."""
        self.check()
        if self.stop.is_set():
            raise self.stop.error(self.run.name, where)

    def _live(self) -> None:
        beat_s = lease_seconds() / BEATS_PER_LEASE
        due = time.monotonic() + beat_s
        while not self._ended.wait(TICK_S):
            if self.stop.is_set():
                self.stopping.set()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + beat_s
            try:
                self.send_heartbeat()
            except StoreUnavailableError as error:
                self._outage = str(error)  # the job itself decides whether it can wait for the store
            except Exception as error:  # noqa: BLE001 - raised in the job's own thread by check()
                self._error = error
                self.stopping.set()
                return

    def send_heartbeat(self) -> None:
        """Look at the log (raises RunFencedError if the run is lost, sees a request to stop), then show life."""
        now = self._record.poll()
        if now.state["lease"] != self.run.lease:
            raise RunFencedError(
                f"run {self.run.name!r} was taken over by {describe(now.state.get('holder') or {})} (attempt "
                f"{now.state['attempts']}) while this process gave no sign of life: leave it to that one"
            )
        if (wish := now.state.get("stop")) and now.status == "running":
            self.stop.ask(f"asked by {wish['by']}" + (f": {wish['reason']}" if wish.get("reason") else ""))
            self.stopping.set()
        self._beats += 1
        try:
            self.run.send_heartbeat(self._beats, self._progress)
        except DatalakeError as error:  # the log, which has just been read, decides who owns the run
            self._outage = str(error)
            return
        if self._outage is not None and now.status == "running":
            outage, self._outage = self._outage, None
            self.run.add_fault("store_unavailable", {"error": outage})

    def _begin(self) -> None:
        if self.finished:
            return
        try:
            self.send_heartbeat()
        except StoreUnavailableError as error:
            self._outage = str(error)  # the next beat comes in seconds
        self._thread.start()

    def _end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _last_beat(self) -> None:
        """Show how far the job came. It is only shown: that it cannot be written changes nothing about the job."""
        if self.finished:
            return
        try:
            self.run.send_heartbeat(self._beats + 1, self._progress)
        except DatalakeError as error:
            console.print(f"run {self.run.name}: its last progress could not be written: {error}", markup=False)

    def _close(self, mark: Callable[[], None]) -> None:
        """Leave the record as ``mark`` says, unless it has become another's: then it is not ours to mark.

        The caller raises what ended the job, whether or not the record could be marked.
        """
        if self.finished:
            return
        self._last_beat()
        try:
            mark()
        except RunFencedError:
            console.print(f"run {self.run.name} has another owner now: its record is left to that one")
        except RunConflictError:
            return  # a worker has finished it, and what went wrong came after
        except DatalakeError as error:
            console.print(
                f"run {self.run.name}: its end could not be recorded, so it will show as lost: {error}", markup=False
            )


@contextmanager
def acquire(
    lake: Lake,
    name: str,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    stop: Stop | None = None,
    settings: Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    parent: str | None = None,
    wait: bool = True,
) -> Iterator[RunLease]:
    """Acquire the run's lease for the block, which marks the run finished itself; any other end is recorded here.

    ``settings`` is what may differ between attempts, ``resources`` what this one runs on. The lease of a run with a
    ``parent`` is acquired without asking: who owns the parent owns its children. With ``wait`` a silent owner is waited
    for until it counts as dead. Raises RunHeldError if somebody works on it, RunConflictError if it is another job's.
    """
    about = {"settings": dict(settings or {}), "resources": dict(resources or {}), "parent": parent}
    run = _start_over(
        lake, name, kind, config, inputs, about | {"holder": this_process()}, wait, force=parent is not None
    )
    run_lease = RunLease(lake, run, stop or Stop())
    run_lease._begin()
    try:
        with driver_telemetry(name), unwrapping():
            yield run_lease
    except JobStopped as stopped:
        run_lease._end()
        reason = f"stopped ({stopped.reason})"
        run_lease._close(lambda: run.stop(reason, progress=run_lease._progress))
        raise
    except RunFencedError:
        run_lease._end()
        raise
    except (KeyboardInterrupt, SystemExit, GraceOver) as left:
        run_lease._end()
        reason = run_lease.stop.reason or type(left).__name__
        run_lease._close(lambda: run.stop(f"stopped at once ({reason})", progress=run_lease._progress))
        raise
    except Exception as error:
        run_lease._end()
        line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        run_lease._close(lambda: run.fail(line))
        raise
    else:
        run_lease._end()
        run_lease._last_beat()


def _start_over(
    lake: Lake,
    name: str,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    about: Mapping[str, Any],
    wait: bool,
    *,
    force: bool,
) -> Run:
    while True:
        try:
            found = lake.runs.get(name)
        except NotFoundError:
            over = ""
        else:
            over = found.state["lease"]
            if found.status == "running" and not force:
                _check_dead(lake, found, wait)
        try:
            return lake.runs.start(name, kind, config, inputs, over=over, about=about)
        except RunHeldError:
            continue  # somebody was quicker: look again who that is


def _check_dead(lake: Lake, run: Run, wait: bool) -> None:
    """Return once the owner counts as dead; RunHeldError as soon as it is seen to live."""
    owner = run.state.get("holder")
    if not owner or is_gone(owner):  # without one, nobody beats: a library caller that only fencing keeps out
        return
    lease_s = lease_seconds()
    first = _beat_of(lake, run)
    silence = lease_s
    if first is not None and (lake.system.clock() - datetime.fromisoformat(first[1])).total_seconds() > lease_s:
        silence = 2 * lease_s / BEATS_PER_LEASE  # long silent by the clocks; if these disagree, a beat will show
    elif not wait:
        raise _held_error(run, owner)
    console.print(f"run {run.name}: looking whether {describe(owner)} still works on it (up to {silence:.0f} s)")
    until = lake.system.monotonic() + silence
    while lake.system.monotonic() < until:
        lake.system.sleep(min(0.5, lease_s / 10))
        if _beat_of(lake, run) != first:
            raise _held_error(run, owner)


def unowned(lake: Lake, name: str, *, wait: bool) -> Run:
    """Return the run if nobody works on it. With ``wait`` a silent owner is waited for until it counts as dead.

    Raises NotFoundError, and RunHeldError as soon as its owner is seen to live.
    """
    run = lake.runs.get(name)
    if run.status == "running":
        _check_dead(lake, run, wait)
    return run


class OwnerWatch:
    """Looks from time to time whether anybody still works on a run."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake, self._name = lake, name
        self._beat = ("", 0)
        self._since = lake.system.monotonic()

    def free(self) -> Run | None:
        """The run if it has ended or its owner is dead, None while somebody works on it. Raises NotFoundError."""
        run = self._lake.runs.get(self._name)
        owner, now = run.state.get("holder"), self._lake.system.monotonic()
        if run.status != "running" or not owner or is_gone(owner):
            return run
        heartbeat = self._lake.runs.heartbeat(self._name)
        beat = (run.state["lease"], heartbeat.beat if heartbeat is not None else 0)
        if beat != self._beat:
            self._beat, self._since = beat, now
        return run if now - self._since > lease_seconds() else None


def await_owner(lake: Lake, name: str, stop: Stop) -> Run | None:
    """Wait until nobody works on run ``name``; the run then, or None if nobody did at the first look.

    Says whom it waits for, at once and every 30 s. Raises JobStopped if ``stop`` is set meanwhile.
    """
    try:
        watch = OwnerWatch(lake, name)
        if watch.free() is not None:
            return None
    except NotFoundError:
        return None
    said: float | None = None
    while (found := watch.free()) is None:
        now = lake.system.monotonic()
        if said is None or now - said >= NOTICE_S:
            said = now
            state = lake.runs.get(name).state
            console.print(
                f"run {name}: {describe(state.get('holder') or {})} works on it (attempt {state['attempts']}); waiting "
                "for its end, to go on if it dies",
                markup=False,
            )
        for _ in range(4):
            stop.check(f": run {name} is left to its owner")
            lake.system.sleep(0.25)
    return found


def _beat_of(lake: Lake, run: Run) -> tuple[int, str] | None:
    heartbeat = lake.runs.heartbeat(run.name)
    return (heartbeat.beat, heartbeat.time) if heartbeat is not None and heartbeat.lease == run.state["lease"] else None


def _held_error(run: Run, owner: dict[str, Any]) -> RunHeldError:
    return RunHeldError(
        f"run {run.name!r} is being worked on by {describe(owner)} (attempt {run.state['attempts']}): follow it with "
        f"`morphogen runs follow {run.name}`, or end it with `morphogen runs stop {run.name}` first"
    )
