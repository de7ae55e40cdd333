"""Run a function in a child process that the kernel treats otherwise: as another user, without room, without locks."""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import resource
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

_NOBODY = 65534


def in_child(function: Callable[[], Any], before: Callable[[], None] = lambda: None) -> Any:
    """What ``function`` returns or raises in a child process, there called after ``before``."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        outcome: tuple[Any, BaseException | None]
        try:
            before()
            outcome = function(), None
        except BaseException as error:  # noqa: BLE001 - raised by the parent
            outcome = None, error
        try:
            os.write(writing, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    result, error = pickle.loads(data)  # noqa: S301 - our own child's
    if error is not None:
        raise error
    return result


def as_nobody(function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises for user and group ``nobody``.

    Without root the child stays who it is: then permissions hold for the tests' own user, too.
    """
    return in_child(function, _become_nobody)


def _become_nobody() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def on_a_tiny_disk(folder: Path, size: int, function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises where ``folder`` is a file system of ``size`` bytes.

    A mount that only the child sees; where the kernel allows none, no file may grow beyond ``size`` instead.
    """

    def mount() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        new_user = 0x10000000 if os.getuid() else 0
        if libc.unshare(0x00020000 | new_user) or libc.mount(b"none", b"/", None, 0x44000, None):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        elif libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()):
            raise OSError(ctypes.get_errno(), "tmpfs")

    return in_child(function, mount)


# Numbers of system calls by machine, and where their arguments lie in seccomp's data.
_CALLS = {"x86_64": {"flock": 73, "mmap": 9}, "aarch64": {"flock": 32, "mmap": 222}}
_NUMBER, _FLAGS, _FILE = 0, 40, 48


def without_call(call: Literal["flock", "mmap"], code: int, function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises where the kernel answers ``flock``, or ``mmap`` of a file that is shared with
    others, with error ``code``: as on file systems that have no such thing."""

    def refuse() -> None:
        number = _CALLS[platform.machine()][call]
        load, equal, bit, answer = 0x20, 0x15, 0x45, 0x06
        allow, error = 0x7FFF0000, 0x00050000 | code
        program = {
            "flock": [(load, 0, 0, _NUMBER), (equal, 0, 1, number), (answer, 0, 0, error), (answer, 0, 0, allow)],
            "mmap": [
                (load, 0, 0, _NUMBER), (equal, 0, 5, number),
                (load, 0, 0, _FLAGS), (bit, 0, 3, 1),  # MAP_SHARED
                (load, 0, 0, _FILE), (equal, 1, 0, 0xFFFFFFFF),  # no file
                (answer, 0, 0, error), (answer, 0, 0, allow),
            ],
        }[call]  # fmt: skip
        code_bytes = b"".join(struct.pack("<HBBI", *line) for line in program)
        buffer = ctypes.create_string_buffer(code_bytes)
        filters = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters, 0, 0):  # no new privileges; a filter of calls
            raise OSError(ctypes.get_errno(), "seccomp")

    return in_child(function, refuse)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everyone can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="morphogen-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
