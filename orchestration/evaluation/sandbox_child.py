"""Confines one sample of pass@k and watches over it; started by `sandbox` as a process of its own.

Three processes: this one, which never runs a line of the sample, makes the confined place, starts the other two in it
and reports on a pipe that neither of them has; the program's; the tests' (`sandbox_sides`). The program's lives in a
namespace of processes within that of the tests and can address neither. When this process or its parent ends, all end.
"""

from __future__ import annotations

import base64
import json
import math
import os
import resource
import select
import signal
import site
import sys
import time
from collections.abc import Callable
from typing import Any

from orchestration.evaluation import sandbox_confine as confine
from orchestration.evaluation.sandbox_sides import PASSED, PROGRAM_ENDED, run_program, run_tests
from orchestration.evaluation.sandbox_values import Channel

OUTPUT_BYTES = 1 << 20
SAID_BYTES = 64 << 10
MORE_DESCRIPTORS = 256  # than were handed over
NOT_CONFINED, SIGNALLED = 99, 128
OUT_OF_TIME = "out of time"
# Libraries of linear algebra would otherwise take memory for each of the machine's cores.
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main(task_file: int, tests_file: int, report_to: int, lifeline: int) -> None:
    """Do the task described in ``task_file``; the four are descriptors that the parent opened.

    ``report_to`` gets one JSON object; ``lifeline`` is read only to notice that the parent has ended or given up.
    """
    os.umask(0o022)
    _few_descriptors(max(task_file, tests_file, report_to, lifeline))
    task = json.loads(_content(task_file))
    try:
        as_root = task["namespaces"] == "root"
        if task["namespaces"]:
            confine.enter_namespaces(as_root=as_root)
            confine.enter_root(task["folder"], task["readable"])
        else:
            os.chdir(task["folder"])
    except OSError as error:
        _report(report_to, {"refused": error.strerror or str(error)})
        return
    if not task["namespaces"]:
        _watch(task, tests_file, report_to, lifeline)
        return
    child = os.fork()  # the first in its namespace of processes, which ends with it
    if child == 0:
        _never_return(lambda: _watch(task, tests_file, report_to, lifeline))
    os.close(report_to)
    os.waitpid(child, 0)


def _few_descriptors(highest: int) -> None:
    """Bound the numbers of open files: containers allow a thousand million, and each of those is closed below.

    Closing them all at once is a call that a container may refuse; one by one it would take minutes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = highest + MORE_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft > most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _watch(task: dict[str, Any], tests_file: int, report_to: int, lifeline: int) -> None:
    """Start the program and the tests, collect what they print, and report how they ended."""
    output, printing = os.pipe()
    asked, asking = os.pipe()
    answered, answering = os.pipe()
    tests_alive, tests_living = os.pipe()
    confined, confining = os.pipe()
    os.environ.update(ENVIRONMENT)
    # Python was started without `site`, which runs what packages put there; what it gives to programs is given here.
    sys.path += task["packages"]
    site.setquit()

    def tests() -> None:
        given, code = json.loads(_content(tests_file))
        _keep_only(printing, answered, asking, tests_living, confining)
        _confine(task, confining)
        run_tests(given, code, Channel(answered, asking))

    def program() -> None:
        _keep_only(printing, asked, answering, confining)
        source = base64.b64decode(task["program"])
        if task["namespaces"]:
            _leave_first_place(task)
        _confine(task, confining)
        run_program(source, Channel(asked, answering))

    tests_process = _fork(tests)
    if task["namespaces"]:
        confine.new_processes()
    program_process = _fork(program)
    for end in (printing, asked, asking, answered, answering, tests_living, confining, tests_file):
        os.close(end)
    confine.drop_privileges(as_root=task["namespaces"] == "root")
    # Without privileges this process can end only what has given up its own, too.
    all_confined = _await_confined(confined)
    said, problem = _collect(output, tests_alive, lifeline, task["clock_seconds"])
    if problem:
        os.kill(tests_process, signal.SIGKILL)
    code = _exit_code(os.waitpid(tests_process, 0)[1])
    ended = _end(program_process, wait=code == PROGRAM_ENDED)
    said += _rest(output)
    verdict = "passed" if code == PASSED else "program ended" if code == PROGRAM_ENDED else "failed"
    # The program could end with that code, too, but only once its process has said that it is confined.
    if NOT_CONFINED in (code, ended) and not all_confined:
        verdict = "not confined"
    text = said[-SAID_BYTES:].decode(errors="replace")
    _report(report_to, {"verdict": verdict, "tests": code, "program": ended, "problem": problem, "said": text})


def _leave_first_place(task: dict[str, Any]) -> None:
    """Go on as a child: the first process of a namespace is spared by signals, so a crash would not end it."""
    confine.drop_privileges(as_root=task["namespaces"] == "root")
    child = os.fork()
    if child:
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        os._exit(_exit_code(os.waitpid(child, 0)[1]))


def _confine(task: dict[str, Any], confining: int) -> None:
    """All that binds one process, the last of it what would stand in the way of the rest; then a byte that says so."""
    try:
        confine.limit(task["seconds"], task["memory_bytes"])
        confine.drop_privileges(as_root=task["namespaces"] == "root")
        confine.end_with_parent()
        confine.restrict_files(os.getcwd(), task["readable"])
        if task["filter"]:
            confine.restrict_calls(base64.b64decode(task["filter"]))
        os.write(confining, b".")
        os.close(confining)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr, flush=True)
        os._exit(NOT_CONFINED)


def _await_confined(confined: int) -> bool:
    """Whether both processes have said that they are confined; False once one that has not is gone."""
    said = b""
    while len(said) < 2 and (part := os.read(confined, 2)):
        said += part
    return len(said) == 2


def _collect(output: int, tests_alive: int, lifeline: int, seconds: float) -> tuple[bytes, str]:
    """What was printed until the tests' process ended, and why it must be ended otherwise."""
    said, deadline = bytearray(), time.monotonic() + seconds
    watched = select.poll()
    for descriptor in (output, tests_alive, lifeline):
        watched.register(descriptor, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return bytes(said), OUT_OF_TIME
        ready = {descriptor for descriptor, _ in watched.poll(math.ceil(1000 * left))}
        if lifeline in ready:
            return bytes(said), "given up"
        if output in ready:
            part = os.read(output, 1 << 16)
            said += part
            if not part:
                watched.unregister(output)
            if len(said) > OUTPUT_BYTES:
                return bytes(said), f"more than {OUTPUT_BYTES >> 20} MiB of output"
        elif tests_alive in ready:
            return bytes(said), ""


def _end(process: int, *, wait: bool) -> int | None:
    """The program's exit code (above 128: the signal that ended it); None if it was this process that ended it."""
    deadline = time.monotonic() + 1
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return _exit_code(status)
        if not wait or time.monotonic() > deadline:
            break
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _exit_code(status: int) -> int:
    """As a shell gives it: 128 and more for a signal, since one process hands it on as its own exit code."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNALLED - code


def _rest(output: int) -> bytes:
    """What is left in the pipe once nobody writes; without a namespace, something might still hold it."""
    os.set_blocking(output, False)
    try:
        return os.read(output, SAID_BYTES)
    except BlockingIOError:
        return b""


def _fork(work: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        _never_return(work)
    return process


def _never_return(work: Callable[[], None]) -> None:
    try:
        work()
    finally:
        os._exit(1)


def _keep_only(printing: int, *descriptors: int) -> None:
    """Close all but ``descriptors``; what is printed goes to ``printing``."""
    os.dup2(printing, 1)
    os.dup2(printing, 2)
    kept = sorted(descriptors)
    for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def _content(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def _report(descriptor: int, report: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(report).encode())
