"""Model-written Python in a process of its own: limited in time, memory and files, and cut off as far as Linux lets us.

What holds is measured, not assumed (`protection`). Always: no environment, no standard input, a temporary working
folder, limits of CPU time, wall time, memory, open files and file size. Where the kernel allows a user namespace: no
network, and no process outlives or sees beyond the program's own. With Landlock: no other file can be written, and only
Python and the system's libraries read. None of this is a virtual machine: a hole in the kernel is a hole in it.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("sandbox_child.py")

# Without a mapping of users the program holds no capability even in its own namespace.
# A namespace's first process, over its CPU time, gets SIGKILL, which unshare tries in vain to pass on to itself.
KILLED_WITHIN = "unshare: sigprocmask unblock failed"

NAMESPACES = ("unshare", "--user", "--net", "--ipc", "--pid", "--fork", "--kill-child")

# A program that could have been done in time must not fail because others use the machine.
BUSY = 4

PROBLEM_CHARACTERS = 200


@dataclass(frozen=True)
class Limits:
    """Of one program: ``seconds`` of CPU, and ``BUSY`` times that by the clock."""

    seconds: float = 5.0
    memory_mib: int = 512


@dataclass(frozen=True)
class Outcome:
    """``finished``: the program ran to its last line. ``problem``: how it ended otherwise, in a few words."""

    finished: bool
    problem: str
    output: str


@dataclass(frozen=True)
class Protection:
    """What a program can do outside its folder on this machine."""

    network: bool
    reads_files: bool
    writes_files: bool

    def describe(self) -> str:
        """One line for the person who runs it."""
        can = [
            what
            for what, possible in (
                ("reach the network", self.network),
                ("read your files", self.reads_files),
                ("write your files", self.writes_files),
            )
            if possible
        ]
        return f"programs CAN {' and '.join(can)}" if can else "programs have no network and no files but their own"


def run_python(program: str, limits: Limits) -> Outcome:
    """Run ``program`` with this interpreter. It counts as finished only if it came to its end and exited with 0."""
    # Exit code 0 alone would let `raise SystemExit` pass for success.
    done = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="morphogen-run-", ignore_cleanup_errors=True) as folder:
        path, output = Path(folder) / "program.py", Path(folder) / "output"
        path.write_text(f"{program}\nprint({done!r})\n", encoding="utf-8", errors="surrogatepass")
        command = [
            *_namespaces(),
            *(sys.executable, "-I", "-X", "utf8", str(CHILD), str(path)),
            *(str(math.ceil(limits.seconds)), str(limits.memory_mib << 20)),
        ]
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(BUSY * limits.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill(process)
        text = output.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    if code == 0 and lines and lines[-1] == done:
        return Outcome(True, "", "\n".join(lines[:-1]))
    killed = code in (-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGKILL)
    if code is None or killed or (code == 1 and lines and lines[-1].startswith(KILLED_WITHIN)):
        return Outcome(False, f"more than {limits.seconds:g} s", text)
    said = f": {lines[-1][:PROBLEM_CHARACTERS]}" if code and lines else ""
    return Outcome(False, f"ended early with exit code {code}{said}", text)


@functools.cache
def protection() -> Protection:
    """Try to reach a socket, a file and a folder of this process from inside."""
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        secret.write_text("")
        port = server.getsockname()[1]
        program = f"""
import json, socket
def possible(action):
    try:
        action()
    except OSError:
        return False
    return True
print(json.dumps([
    possible(lambda: socket.create_connection(("127.0.0.1", {port}), 1)),
    possible(lambda: open({str(secret)!r}).close()),
    possible(lambda: open({str(secret)!r}, "a").close()),
]))"""
        outcome = run_python(program, Limits())
    if not outcome.finished:  # then nothing is known, and nothing is claimed
        return Protection(True, True, True)
    return Protection(*json.loads(outcome.output))


@functools.cache
def _namespaces() -> tuple[str, ...]:
    """The command that gives a program its own namespaces; empty where the kernel or the machine has none to give."""
    try:
        subprocess.run([*NAMESPACES, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ()
    return NAMESPACES


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The program and all it started, as far as they stayed in its session; a namespace's go with its first process."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
