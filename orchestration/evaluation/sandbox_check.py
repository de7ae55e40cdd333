"""What a program in the sandbox can do on this machine, found out by trying; and the refusal where that is too much."""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestration.errors import EvaluationError
from orchestration.evaluation.sandbox import Limits, best_namespaces, refusals, run_python
from orchestration.evaluation.sandbox_confine import FOLDER_BYTES
from orchestration.evaluation.sandbox_filter import refused_calls

SAYS = {
    "network": "reach the network",
    "sockets": "reach other programs' sockets",
    "reads_files": "read your files",
    "writes_files": "write your files",
    "processes": "start processes",
    "signals": "end other processes",
    "fills_disk": "fill the disk",
    "root": "act as root",
}

# Everything that the program tries is set up by `_targets`, so that failing means being kept from it.
PROGRAM = """
import json, os, socket
TARGETS = json.loads({targets!r})
def possible(*actions):
    for action in actions:
        try:
            if action() is not False:
                return True
        except OSError:
            pass
    return False
def connect(family, address):
    with socket.socket(family) as each:
        each.settimeout(1)
        each.connect(address)
def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        each.sendto(b".", address)
def fork():
    if os.fork() == 0:
        os._exit(0)
def fill():
    for number in range(2 * {folder_bytes} >> 19):
        with open(f"fill-{{number}}", "wb") as file:
            file.write(bytes(1 << 19))
print(json.dumps({{
    "network": possible(
        lambda: connect(socket.AF_INET, ("127.0.0.1", TARGETS["port"])), lambda: send(("127.0.0.1", TARGETS["port"]))
    ),
    "sockets": possible(
        lambda: connect(socket.AF_UNIX, TARGETS["path"]), lambda: connect(socket.AF_UNIX, "\\0" + TARGETS["abstract"]),
        lambda: socket.socket(getattr(socket, "AF_VSOCK", socket.AF_UNIX)).close(),
    ),
    "reads_files": possible(*(lambda path=path: open(path).close() for path in TARGETS["read"])),
    "writes_files": possible(*(lambda path=path: open(path, "a").close() for path in TARGETS["write"])),
    "processes": possible(fork),
    "signals": possible(lambda: os.kill(TARGETS["process"], 0)),
    "fills_disk": possible(fill),
    "root": possible(lambda: 0 in (*os.getresuid(), *os.getresgid()), lambda: os.setuid(0)),
}}))
"""


@dataclass(frozen=True)
class Protection:
    """What a program can do outside its own folder and process on this machine; all of it False is what is wanted."""

    network: bool
    sockets: bool
    reads_files: bool
    writes_files: bool
    processes: bool
    signals: bool
    fills_disk: bool
    root: bool

    def possible(self) -> list[str]:
        """In words, what can be done."""
        return [SAYS[field.name] for field in fields(self) if getattr(self, field.name)]

    def describe(self) -> str:
        """One line for the person who runs it."""
        can = self.possible()
        if can:
            return f"programs CAN {', '.join(can)}"
        tried = ", ".join(SAYS.values())
        return f"tried from inside, and refused each time: {tried}"


@functools.cache
def protection(namespaces: str | None = None) -> Protection:
    """Try to reach a socket, a file, a process … of this process from inside (``namespaces`` as for `run_tests`)."""
    with _targets() as targets:
        program = PROGRAM.format(targets=json.dumps(targets), folder_bytes=FOLDER_BYTES)
        outcome = run_python(program, Limits(), namespaces=namespaces)
    if not outcome.finished:  # then nothing is known, and nothing is claimed
        return Protection(**dict.fromkeys(SAYS, True))
    return Protection(**json.loads(outcome.output))


@contextmanager
def _targets() -> Iterator[dict[str, Any]]:
    """What is there to be reached: a port, two local sockets, a file and a process, all this process's own."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as abstract,
        tempfile.TemporaryDirectory(prefix="morphogen-check-") as folder,
    ):
        secret, path, name = Path(folder) / "secret", f"{folder}/socket", f"morphogen-{os.path.basename(folder)}"
        secret.write_text("")
        secret.chmod(0o666)
        Path(folder).chmod(0o777)
        by_path.bind(path)
        by_path.listen()
        Path(path).chmod(0o777)
        abstract.bind("\0" + name)
        abstract.listen()
        yield {
            "port": server.getsockname()[1],
            "path": path,
            "abstract": name,
            "read": [str(secret), "/etc/passwd", "/etc/hostname", "/proc/self/environ"],
            "write": [str(secret), f"{folder}/new"],
            "process": os.getpid(),
        }


def require_confinement(*, unsafe: bool) -> None:
    """EvaluationError unless a program can do none of what `protection` tries, or ``unsafe`` says that it may.

    Where no program comes to its end at all, no score would mean anything, so that this is refused in any case.
    """
    empty = run_python("", Limits())
    if not empty.finished:
        raise EvaluationError(f"this machine cannot run programs in the sandbox at all: {empty.problem}; use Linux")
    can = protection().possible()
    if not can or unsafe:
        return
    reasons = [] if best_namespaces() else [f"namespaces: {reason}" for reason in refusals().values()]
    if refused_calls(signals=False) is None:
        reasons.append("libseccomp is not installed (Debian and Ubuntu: apt install libseccomp2)")
    because = f" ({'; '.join(reasons)})" if reasons else ""
    raise EvaluationError(
        f"on this machine programs that the model writes CAN {', '.join(can)}{because}. "
        "Evaluate where user namespaces are allowed, or as root with the right to mount, or in a virtual machine made "
        "for this; if nothing here is worth protecting, add --unsafe-sandbox"
    )
