"""The runs of a lake: begin one, take one over, join one, look at one, ask one to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from datalake.canonical import canonical_json, digest_of
from datalake.clock import Ambient
from datalake.errors import NotFoundError, RunConflictError, RunHeldError
from datalake.log.version_log import VersionLog, logged_names
from datalake.names import check_name
from datalake.runs.heartbeat import Pulse, read_pulse
from datalake.runs.run import Run, State, fenced_error
from datalake.store.interface import Store


class RunRepository:
    """Runs of one lake."""

    def __init__(self, store: Store, ambient: Ambient) -> None:
        self._store = store
        self._ambient = ambient

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
        run is taken only from the holder of that lease ("": only if there is none), so of several takers one wins.
        With ``lease`` it is joined and not taken: a worker shares what its driver holds.

        Raises RunConflictError if a run of this name has another kind, configuration or inputs, RunHeldError if another
        than ``over`` holds it, RunFencedError if another than ``lease`` does.
        """
        log = VersionLog(self._store, "runs", check_name(run, "run"), self._ambient)
        wanted = {
            "kind": kind,
            "config_digest": digest_of(dict(config)),
            "inputs": json.loads(canonical_json(dict(inputs))),
        }
        mine = lease or self._ambient.nonce()
        extra = dict(about or {})

        def take(state: State | None) -> State | None:
            held = state["lease"] if state else ""
            if lease is not None and (held != lease or (state and state["status"] in ("stopped", "failed"))):
                raise fenced_error(run, state)
            if state is None:
                fresh = {"status": "running", "config": dict(config), "attempts": 1, "lease": mine}
                return {**wanted, **fresh, "checkpoints": [], "result": None, "error": None, **extra}
            for field, value in wanted.items():
                if state[field] != value:
                    raise RunConflictError(
                        f"run {run!r} exists with another {field.replace('_', ' ')} ({_brief(state[field])}, not "
                        f"{_brief(value)}): use its configuration to go on with it, or another run name"
                    )
            if state["status"] == "finished" or lease is not None:
                return None
            if over is not None and held != over:
                raise RunHeldError(f"run {run!r} has just been taken by another process: leave it to that one")
            state.pop("stop", None)
            taken = {"status": "running", "error": None, "attempts": state["attempts"] + 1, "lease": mine}
            return {**state, **taken, **extra}

        entry = log.update(take, f"start {kind}")
        return Run(self._store, self._ambient, log, entry.state, mine)

    def ask_stop(self, run: str, reason: str = "") -> Run:
        """Ask whoever works on the run to checkpoint and stop; its owner sees ``state["stop"]`` when it next looks.

        Asking twice changes nothing. Raises NotFoundError, or RunConflictError if the run is not running.
        """
        log = VersionLog(self._store, "runs", self.get(run).name, self._ambient)

        def ask(state: State | None) -> State | None:
            if state is None or state["status"] != "running":
                status = state["status"] if state else "gone"
                raise RunConflictError(
                    f"run {run!r} is {status}, so there is nothing to stop: see `morphogen runs list`"
                )
            if state.get("stop"):
                return None
            wish = {"by": self._ambient.author, "time": self._ambient.timestamp(), "reason": reason}
            return {**state, "stop": wish}

        return Run(self._store, self._ambient, log, log.update(ask, "ask to stop").state, lease=None)

    def pulse(self, run: str) -> Pulse | None:
        """The newest sign of life of the run's owner, None if it never gave one."""
        return read_pulse(self._store, check_name(run, "run"))

    def get(self, run: str) -> Run:
        """A run to look at; it has no lease, so writing through it raises RunFencedError. Raises NotFoundError."""
        log = VersionLog(self._store, "runs", check_name(run, "run"), self._ambient)
        head = log.head()
        if head is None:
            raise NotFoundError(f"no run named {run!r} in lake {self._store.uri}: its runs are {list(self.list())}")
        return Run(self._store, self._ambient, log, head.state, lease=None)

    def names(self, after: str = "") -> Iterator[str]:
        """The names of the runs that sort after ``after``, sorted, looked at as they are asked for."""
        return logged_names(self._store, "runs", self._ambient, after)

    def list(self) -> list[str]:
        """The names of all runs, sorted."""
        return [*self.names()]


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
