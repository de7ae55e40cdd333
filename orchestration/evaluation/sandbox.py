"""Model-written Python, run where it can reach nothing and judged by what it computes, not by what it says.

`run_tests` runs a program and tests of it in two processes (`sandbox_sides`), both confined as far as Linux lets us
(`sandbox_confine`, `sandbox_filter`) and watched by a third (`sandbox_child`), which reports here. Whatever the program
does, the outcome is that it passed or did not. What holds on this machine is found out by trying (`sandbox_check`).
None of this is a virtual machine: a hole in the kernel is a hole in it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import math
import os
import select
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestration.errors import EvaluationError
from orchestration.evaluation import sandbox_child
from orchestration.evaluation.sandbox_filter import refused_calls

PACKAGES = Path(__file__).resolve().parents[2]
START = """
import sys
sys.path.insert(0, sys.argv[1])
from orchestration.evaluation import sandbox_child
del sys.path[0]
sandbox_child.main(*map(int, sys.argv[2:]))
"""

# A program that could have been done in time must not fail because others use the machine.
BUSY = 4
STARTING_SECONDS = 20
OVER_TIME = tuple(sandbox_child.SIGNALLED + number for number in (signal.SIGXCPU, signal.SIGKILL))

SYSTEM_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")

REPORT_BYTES = 1 << 20
PROBLEM_CHARACTERS = 200

# How to confine, best first: see `sandbox_confine.enter_namespaces`. The last is without namespaces.
ROOT, USER, NONE = "root", "user", ""


@dataclass(frozen=True)
class Limits:
    """Of one program: ``seconds`` of CPU, and ``BUSY`` times that by the clock; ``memory_mib`` of address space.

    ``unsafe_sandbox``: run programs even where `sandbox_check` finds that they could get out.
    """

    seconds: float = 5.0
    memory_mib: int = 512
    unsafe_sandbox: bool = False

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("seconds", self.seconds, 0.1, 86_400),
            ("memory_mib", self.memory_mib, 64, 1 << 20),
        ):
            if not least <= value <= most:
                raise EvaluationError(f"{name} = {value}: a program's limit must lie in {least} to {most}")


@dataclass(frozen=True)
class Outcome:
    """``finished``: program and tests came to their end. ``problem``: how they ended otherwise, in a few words.

    ``output``: the end of what both printed.
    """

    finished: bool
    problem: str
    output: str


def run_python(program: str, limits: Limits, *, namespaces: str | None = None) -> Outcome:
    """Run ``program`` by itself. That it finished is what its process says; only tests prove anything (`run_tests`)."""
    return run_tests(program, "", limits, namespaces=namespaces)


def run_tests(program: str, tests: str, limits: Limits, *, given: str = "", namespaces: str | None = None) -> Outcome:
    """Run ``program``, then ``tests`` of it; ``given`` is the prompt, the part of the program that may be trusted.

    ``namespaces``: one of ``ROOT``, ``USER``, ``NONE``; the best that this machine has by default. EvaluationError only
    where the machine, not the program, is at fault.
    """
    how = best_namespaces() if namespaces is None else namespaces
    report = _run(program, given, tests, limits, how)
    if report is None:
        return Outcome(False, "the sandbox ended without a report", "")
    if "refused" in report:
        raise EvaluationError(f"the sandbox cannot be set up: {report['refused']}")
    said, lines = report["said"], report["said"].splitlines()
    last = f": {lines[-1][:PROBLEM_CHARACTERS]}" if lines else ""
    match report["verdict"]:
        case "passed":
            return Outcome(True, "", said)
        case "not confined":
            raise EvaluationError(f"the sandbox cannot be set up{last}")
    code = report["program"] if report["verdict"] == "program ended" else report["tests"]
    problem = report["problem"]
    if problem == sandbox_child.OUT_OF_TIME or (not problem and (code is None or code in OVER_TIME)):
        return Outcome(False, f"more than {limits.seconds:g} s", said)
    if problem:
        return Outcome(False, problem, said)
    return Outcome(False, f"ended early with exit code {code}{last if code else ''}", said)


def best_namespaces() -> str:
    """The best way of confining that this machine has."""
    return next((how for how, refused in refusals().items() if not refused), NONE)


@functools.cache
def refusals() -> dict[str, str]:
    """Why each way of confining with namespaces fails here, best first; "" for the first that works, which ends it."""
    found = {}
    for how in (ROOT, USER) if os.geteuid() == 0 else (USER,):
        report = _run("", "", "", Limits(), how) or {}
        reason = str(report.get("refused") or report.get("said") or "failed").strip()
        found[how] = "" if report.get("verdict") == "passed" else reason
        if not found[how]:
            break
    return found


def _run(program: str, given: str, tests: str, limits: Limits, namespaces: str) -> dict[str, Any] | None:
    """The report of `sandbox_child`; None if there is none. EvaluationError where not even that could be started."""
    try:
        folder = tempfile.mkdtemp(prefix="morphogen-run-")
        try:
            body = _start(_task(program, limits, namespaces, folder), [given, tests], BUSY * limits.seconds)
        finally:
            _remove(folder)
    except OSError as error:
        raise EvaluationError(f"the sandbox cannot be set up: {error}; free what is lacking and try again") from error
    try:
        return None if body is None else dict(json.loads(body))
    except ValueError:  # nothing, since the machine's memory ran out, for one
        return None


def _task(program: str, limits: Limits, namespaces: str, folder: str) -> dict[str, Any]:
    instructions = refused_calls(signals=not namespaces)
    return {
        "program": base64.b64encode(program.encode(errors="surrogatepass")).decode(),
        "filter": base64.b64encode(instructions).decode() if instructions else "",
        "seconds": math.ceil(limits.seconds),
        "clock_seconds": BUSY * limits.seconds,
        "memory_bytes": limits.memory_mib << 20,
        "namespaces": namespaces,
        "folder": folder,
        "packages": site.getsitepackages(),
        "readable": _readable(),
    }


def _start(task: dict[str, Any], judged_by: list[str], seconds: float) -> bytes | None:
    """What `sandbox_child` reports on the task; None if that takes far longer than the ``seconds`` it was given."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_file(content)) for content in (task, judged_by)]
        reported, report_to = os.pipe()
        lifeline, living = os.pipe()
        stack.callback(os.close, reported)
        passed = [*(file.fileno() for file in files), report_to, lifeline]
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", START, str(PACKAGES), *map(str, passed)],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,
            )
        except OSError:
            os.close(living)
            raise
        finally:
            os.close(report_to)
            os.close(lifeline)
        try:
            return _read(reported, time.monotonic() + STARTING_SECONDS + seconds)
        finally:
            os.close(living)
            _kill(process)


def _readable() -> list[str]:
    """Folders of Python, of the packages installed for it, and of the system's libraries."""
    paths = sysconfig.get_paths()
    python = {paths["stdlib"], paths["platstdlib"], f"{sys.base_prefix}/lib", *site.getsitepackages()}
    return sorted(python | set(SYSTEM_FOLDERS))


def _file(content: Any) -> IO[bytes]:
    """An open file without a name that holds ``content`` as JSON."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's to close
    file.write(json.dumps(content).encode())
    file.seek(0)
    return file


def _read(descriptor: int, deadline: float) -> bytes | None:
    """All that comes before the pipe's end; None if the deadline (of the monotonic clock) or the bound comes first."""
    body = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 1 << 16)
            if not part:
                return bytes(body)
            body += part
            if len(body) > REPORT_BYTES:
                return None
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """All that was started. With the lifeline closed it ends by itself; what does not within a second is killed."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _remove(folder: str) -> None:
    """The folder; without namespaces a program may have filled it with what cannot be removed, which is then left."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        return
