"""The runs of a lake: begin one, take one over, join one, look at one, ask one to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from datalake.canonical import canonical_json, digest_of
from datalake.clock import System
from datalake.errors import NotFoundError, RetiredError, RunConflictError, RunHeldError
from datalake.log.claims import claimed
from datalake.log.version_log import ChangeRequest, LogEntry, VersionLog, logged_names
from datalake.names import check_name
from datalake.runs.conflict import describe_differences
from datalake.runs.heartbeat import Heartbeat, read_heartbeat
from datalake.runs.run import LOG_FORMAT, Run, State, fenced_error, list_in, with_lists_kept
from datalake.store.interface import Store


class RunRepository:
    """Runs of one lake."""

    def __init__(self, store: Store, system: System) -> None:
        self._store = store
        self._system = system

    def start(
        self,
        run: str,
        kind: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        *,
        lease: str | None = None,
        over: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Run:
        """Begin a run, or take it over from a process that is gone; ``attempts`` counts both.

        ``config`` and ``inputs`` are JSON; ``inputs`` names what goes in, by the keys ``datasets``, ``models`` and
        ``params`` (lists of ``NAME@V``) where lineage is to follow them; ``about`` sets further fields, such as the
        settings that may differ from one attempt to the next. A finished run is returned as it is. With ``over`` the
        run is acquired only from the owner of that lease ("": only if there is none), so of several processes one wins.
        With ``lease`` it is joined: a worker shares the lease of its driver.

        Raises RunConflictError if a run of this name has another kind, configuration or inputs, RunHeldError if another
        than ``over`` owns it, RunFencedError if another than ``lease`` does, RetiredError if it is
        retired.
        """
        log = self._log(run)
        wanted = {
            "kind": kind,
            "config_digest": digest_of(dict(config)),
            "inputs": json.loads(canonical_json(dict(inputs))),
        }
        mine = lease or self._system.nonce()
        extra = dict(about or {})

        def acquire(now: LogEntry | None) -> State | None:
            state = now.state if now else None
            current = state["lease"] if state else ""
            if lease is not None and (current != lease or (state and state["status"] in ("stopped", "failed"))):
                raise fenced_error(run, state)
            if now is None or state is None:
                fresh = {"status": "running", "config": dict(config), "attempts": 1, "lease": mine}
                return {**wanted, **fresh, "result": None, "error": None, **extra}
            if state.get("retired"):
                raise retired_error(run)
            _check_same(run, state, wanted, config)
            if state["status"] == "finished" or lease is not None:
                return None
            if over is not None and current != over:
                raise RunHeldError(f"run {run!r} has just been taken by another process: leave it to that one")
            taken = {"status": "running", "error": None, "attempts": state["attempts"] + 1, "lease": mine}
            kept = {field: value for field, value in state.items() if field != "stop"}
            return with_lists_kept({**kept, **taken, **extra}, now)

        entry = log.append_next(acquire, f"start {kind}")
        return Run(self._store, self._system, log, entry, mine)

    def extend(self, run: str, config: Mapping[str, Any], inputs: Mapping[str, Any], over: str) -> None:
        """Let a run that has come to its end, or was left, go on under another ``config``; ``start`` then takes it up.

        ``over`` is the digest of the configuration that this one follows. What that one came to is kept in the list
        ``extended``. The caller answers for it that what was done so far is what ``config`` says. Raises
        NotFoundError, and RunConflictError if somebody works on the run or has changed it meanwhile.
        """
        log = self._log(self.get(run).name)
        digest = digest_of(dict(config))

        def change(now: LogEntry | None) -> State | None:
            state = now.state if now else None
            if now is None or state is None or state["config_digest"] not in (over, digest):
                raise RunConflictError(f"run {run!r} has just been changed by another process: look at it again")
            if state.get("retired"):
                raise retired_error(run)
            if state["config_digest"] == digest:
                return None
            if state["status"] == "running":
                raise RunConflictError(
                    f"run {run!r} is running: let it end, or `morphogen runs stop {run}` it, before it is extended"
                )
            before = {"config": state["config"], "result": state["result"], "time": self._system.timestamp()}
            changed = {"config": dict(config), "config_digest": digest, "result": None, "error": None}
            changed["inputs"] = json.loads(canonical_json(dict(inputs)))
            extended = list_in("extended", now, lambda number: log.entry(number).state["extended"]).with_item(before)
            return with_lists_kept({**state, **changed, "status": "stopped", "extended": extended}, now)

        log.append_next(change, "extend")

    def ask_stop(self, run: str, reason: str = "") -> Run:
        """Ask whoever works on the run to checkpoint and stop; its owner sees ``state["stop"]`` when it next looks.

        Asking twice changes nothing. Raises NotFoundError, or RunConflictError if the run is not running.
        """
        log = self._log(self.get(run).name)

        def ask(now: LogEntry | None) -> State | None:
            state = now.state if now else None
            if now is None or state is None or state["status"] != "running":
                status = state["status"] if state else "gone"
                raise RunConflictError(
                    f"run {run!r} is {status}, so there is nothing to stop: see `morphogen runs list`"
                )
            if state.get("stop"):
                return None
            wish = {"by": self._system.author, "time": self._system.timestamp(), "reason": reason}
            return with_lists_kept({**state, "stop": wish}, now)

        return Run(self._store, self._system, log, log.append_next(ask, "ask to stop"), lease=None)

    def retire(
        self, run: str, message: str = "", *, over: str, request: ChangeRequest | None = None
    ) -> tuple[Run, LogEntry]:
        """Mark a run as retired: record and curve stay, it is not taken up again, `data gc` removes its checkpoints.

        Whoever may still believe to hold it is fenced off. ``over`` is the lease that the caller has found nobody at
        work with; nothing is appended if the run is retired already. Raises NotFoundError, and RunHeldError if another
        process has taken it meanwhile.
        """
        log = self._log(self.get(run).name)

        def end(now: LogEntry | None) -> State | None:
            state = now.state if now else None
            if now is None or state is None or state.get("retired"):
                return None
            if state["lease"] != over:
                raise RunHeldError(f"run {run!r} has just been taken by another process: leave it to that one")
            by = {"by": self._system.author, "time": self._system.timestamp(), "message": message}
            ended = {"status": "stopped"} if state["status"] == "running" else {}
            return with_lists_kept({**state, **ended, "lease": self._system.nonce(), "retired": by}, now)

        entry = log.append_next(end, message or "retire", request)
        return Run(self._store, self._system, log, entry, lease=None), entry

    def restore(self, run: str, message: str = "") -> Run:
        """Take the mark of ``retire`` off again. Raises NotFoundError, RetiredError if a checkpoint's file is gone."""
        found = self.get(run)
        log = self._log(found.name)
        keys = [f"{each.key_prefix}/{name}" for each in found.checkpoints for name in each.files]
        with claimed(self._store, self._system, keys, f"restoring run {run}"):
            there = {*self._store.list(f"checkpoints/{found.name}/")} if keys else set()
            if absent := [key for key in keys if key not in there]:
                raise RetiredError(
                    f"run {run!r} cannot be restored: {len(absent)} of its {len(keys)} checkpoint files have been "
                    f"removed, the first is {absent[0]}: run it again under another name"
                )

            def begin(now: LogEntry | None) -> State | None:
                if now is None or not now.state.get("retired"):
                    return None
                kept = {field: value for field, value in now.state.items() if field != "retired"}
                return with_lists_kept(kept, now)

            entry = log.append_next(begin, message or "restore")
        return Run(self._store, self._system, log, entry, lease=None)

    def heartbeat(self, run: str) -> Heartbeat | None:
        """The newest sign of life of the run's owner, None if it never gave one."""
        return read_heartbeat(self._store, check_name(run, "run"))

    def get(self, run: str) -> Run:
        """A run to look at; it has no lease, so writing through it raises RunFencedError. Raises NotFoundError."""
        log = self._log(run)
        head = log.head()
        if head is None:
            raise NotFoundError(f"no run named {run!r} in lake {self._store.uri}: its runs are {list(self.list())}")
        return Run(self._store, self._system, log, head, lease=None)

    def _log(self, run: str) -> VersionLog:
        return VersionLog(self._store, "runs", check_name(run, "run"), self._system, LOG_FORMAT)

    def names(self, after: str = "") -> Iterator[str]:
        """The names of the runs that sort after ``after``, sorted, looked at as they are asked for."""
        return logged_names(self._store, "runs", self._system, after)

    def list(self) -> list[str]:
        """The names of all runs, sorted."""
        return [*self.names()]


def retired_error(run: str) -> RetiredError:
    """The error of more work on a retired run."""
    return RetiredError(
        f"run {run!r} is retired, and its checkpoints may be gone: use another run name, or `morphogen runs delete "
        f"{run} --undo`, which works until `morphogen data gc` has removed one of them"
    )


def _check_same(run: str, state: State, wanted: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """RunConflictError, naming fields and both values, if the run was begun as something else."""
    if state["kind"] != wanted["kind"]:
        raise RunConflictError(
            f"run {run!r} exists with another kind ({state['kind']}, not {wanted['kind']}): use another run name"
        )
    training = wanted["kind"] == "train"
    if state["config_digest"] != wanted["config_digest"]:
        further = ", --extend where only its steps grew" if training else ""
        anew = ' (init = "MODEL@V" in its config: begins from its weights)' if training else ""
        raise RunConflictError(
            f"run {run!r} exists with another configuration, {describe_differences(state['config'], config)}: use its "
            f"own to go on with it{further}, or another run name for a new run{anew}"
        )
    if state["inputs"] != wanted["inputs"]:
        raise RunConflictError(
            f"run {run!r} exists with other inputs, {describe_differences(state['inputs'], wanted['inputs'])}: use "
            "another run name"
        )
