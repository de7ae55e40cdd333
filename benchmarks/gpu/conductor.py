"""Run parts one after another, each in a process group of its own, and keep what each found, whatever becomes of it.

The time that is left is shared among the parts that are left, by their shares: what an early part does not use goes to
the later ones. A part that is over its limit shows where it is (its log ends in a traceback) and is killed with all
that it started. `results.json` is written anew, in one rename, whenever a part finds something or ends. This file needs
Python alone, so a machine that lacks every package still says which.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import read_figures

GRACE_S = 5.0  # to write a traceback, and then to die
POLL_S = 0.5


@dataclass(frozen=True)
class Part:
    """A part of the measurement: `command` runs it; `share` of the time is its own, `least` seconds without which it is
    not begun; `needs` are the modules that it imports."""

    name: str
    command: tuple[str, ...]
    share: float
    least: float
    needs: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of a part: `status` is done, failed, out of time, or left out (`why` says for what reason)."""

    name: str
    status: str = "running"
    why: str = ""
    limit_s: float = 0.0
    seconds: float = 0.0
    figures: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass
class Results:
    """All of it, as `results.json` holds it."""

    machine: dict[str, Any]
    minutes: float
    toy: bool
    seconds: float = 0.0
    parts: list[Outcome] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace `results.json` in one step."""
        temporary = folder / ".results.json"
        temporary.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "results.json")


def conduct(
    parts: Sequence[Part],
    results: Results,
    folder: Path,
    *,
    ends: float,
    environment: Mapping[str, str],
    say: Callable[[str], None] = print,
) -> Results:
    """Run the parts until `ends` (of `time.monotonic`); returns `results`, which `folder` holds at every moment."""
    began = time.monotonic()
    for number, part in enumerate(parts):
        outcome = Outcome(part.name)
        results.parts.append(outcome)
        left = ends - time.monotonic()
        outcome.limit_s = round(left * part.share / sum(each.share for each in parts[number:]), 1)
        missing = [name for name in part.needs if find_spec(name) is None]
        if missing:
            outcome.status, outcome.why = "left out", f"needs {', '.join(missing)} (benchmarks/gpu/packages.txt)"
        elif outcome.limit_s < part.least:
            outcome.status, outcome.why = (
                "left out",
                f"{outcome.limit_s:.0f} s are left, it needs {part.least:g}",
            )
        else:
            say(f"{part.name}: up to {outcome.limit_s:.0f} s")
            try:
                _run(part, outcome, results, folder, environment)
            except KeyboardInterrupt:
                outcome.status, outcome.why = "failed", "interrupted"
                results.write(folder)
                raise
        results.seconds = round(time.monotonic() - began, 1)
        results.write(folder)
        why = f" ({outcome.why})" if outcome.why else ""
        say(f"{part.name}: {outcome.status}{why}, {outcome.seconds:.0f} s, {len(outcome.figures)} figures")
    return results


def _run(part: Part, outcome: Outcome, results: Results, folder: Path, environment: Mapping[str, str]) -> None:
    found = folder / f".{part.name}.jsonl"
    found.unlink(missing_ok=True)
    log_path = folder / f"{part.name}.log"
    limit = outcome.limit_s - GRACE_S if outcome.limit_s > 2 * GRACE_S else outcome.limit_s
    arguments = [*part.command, "--figures", str(found), "--seconds", f"{limit:.1f}"]
    began = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() - began < limit + GRACE_S / 2:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                figures = read_figures(found)
                if len(figures) != len(outcome.figures):
                    outcome.figures = figures
                    results.write(folder)
            late = time.monotonic() - began >= limit
        finally:
            _end(process)
    outcome.seconds = round(time.monotonic() - began, 1)
    outcome.figures = read_figures(found)
    found.unlink(missing_ok=True)
    if process.returncode == 0:
        outcome.status = "done"
    elif late:
        outcome.status, outcome.why = "out of time", f"{log_path.name} ends where it was"
    else:
        ending = f"signal {-process.returncode}" if (process.returncode or 0) < 0 else f"exit code {process.returncode}"
        outcome.status, outcome.why = "failed", f"{ending}: {_last_line(log_path)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the part's group, and do not wait forever for one that hangs in the driver."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def has_cuda_driver() -> bool:
    """Whether a driver is installed, which tells nothing of the GPU, but without one there is none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def machine_facts(packages: Sequence[str]) -> dict[str, Any]:
    """Processor, GPU, versions, commit: whatever can be asked without importing anything large."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    return {
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "gpu": _asked(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]),
        "commit": _asked(["git", "rev-parse", "--short", "HEAD"]),
        "packages": versions,
    }


def _processor() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def _asked(command: list[str]) -> str | None:
    """What a program prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
