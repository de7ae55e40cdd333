"""Run checks beside each other, each under a deadline, and keep what they found; no secret is in what is kept."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datalake.errors import DatalakeError
from generator.errors import GeneratorError
from orchestration.errors import OrchestrationError

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line: ``what`` was looked at, how it is, what was ``found``, what to do about it, and the numbers."""

    what: str
    status: Status
    found: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """JSON-able, without what looks like a secret."""
        told = {"what": self.what, "status": self.status, "found": self.found, "advice": self.advice}
        return _masked({**told, "facts": dict(self.facts)})


Add = Callable[[Finding], None]


@dataclass(frozen=True)
class Check:
    """``run(add)`` adds what it finds, at best as it finds it: what is added before the deadline is kept."""

    what: str
    run: Callable[[Add], None]
    if_silent: str


def examine(checks: Sequence[Check], timeout_s: float) -> list[Finding]:
    """What all checks found, in their order. One that is not over after ``timeout_s`` is left behind, and says so.

    A named error is a finding that failed. Threads that are left behind do not keep the process from ending.
    """
    running = [_Running(check) for check in checks]
    until = time.monotonic() + timeout_s
    return [finding for each in running for finding in each.result(until, timeout_s)]


class _Running:
    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._work, name=f"doctor {check.what}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._check.run(self._found.append)
        except (DatalakeError, GeneratorError, OrchestrationError) as error:
            found, _, advice = str(error).rpartition(": ")
            self._found.append(Finding(self._check.what, "failed", found or advice, advice if found else ""))
        except Exception as error:  # noqa: BLE001 - what one check did not expect must not cost the others
            line = (str(error).splitlines() or [""])[0]
            self._found.append(
                Finding(
                    self._check.what,
                    "failed",
                    f"the check itself failed ({type(error).__name__}: {line})",
                    "report it, with `morphogen doctor --json`",
                )
            )

    def result(self, until: float, timeout_s: float) -> list[Finding]:
        self._thread.join(max(0.0, until - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            found.append(
                Finding(self._check.what, "failed", f"not known within {timeout_s:g} s", self._check.if_silent)
            )
        return found


_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|KEY|AUTH", re.IGNORECASE)
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
_SHORTEST_SECRET = 6


def without_secrets(text: str) -> str:
    """``text`` without the values of variables that hold secrets, and without users and passwords in addresses."""
    text = _USER_IN_ADDRESS.sub("***@", text)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and not os.path.exists(value):
            text = text.replace(value, "***")
    return text


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: _masked(inner) for name, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list | tuple) else value
