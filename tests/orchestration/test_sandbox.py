"""Programs that do what model-written programs might: none hangs, none passes by leaving early, none gets out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestration.evaluation.sandbox import Limits, protection, run_python

QUICK = Limits(seconds=1.0, memory_mib=256)


def test_a_program_that_comes_to_its_end_has_finished() -> None:
    outcome = run_python(
        "print('größe')\nopen('/dev/null', 'w').write('x')\nopen('mine', 'w').write('x')\nassert 1 + 1 == 2", QUICK
    )
    assert (outcome.finished, outcome.output) == (True, "größe")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("assert 1 + 1 == 3, 'wrong'", "AssertionError: wrong"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit", "ended early with exit code 0"),
        ("import os; os._exit(0)", "ended early with exit code 0"),
        ("while True: pass", "more than 1 s"),
        ("import time; time.sleep(60)", "more than 1 s"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(1 << 22))", "File too large"),
        ("import sys\nwhile True: sys.stdout.write('x' * 4096)", "ended early with exit code"),
        ("input()", "EOFError"),
        ("import os; assert os.environ.get('HOME')", "AssertionError"),
        ("\ud800", "SyntaxError"),
    ],
)
def test_a_program_that_does_not_is_told_why(program: str, says: str) -> None:
    outcome = run_python(program, QUICK)
    assert not outcome.finished
    assert says in outcome.problem


def test_what_it_started_ends_with_it() -> None:
    """A child that moves to a session of its own is still gone when the call returns (in a namespace of processes)."""
    if protection().network:
        pytest.skip("this kernel gives no user namespace")
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(654.321)\n"
    before = time.monotonic()
    run_python(program, QUICK)
    assert time.monotonic() - before < 60
    mine = [Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
    left = [path for path in mine if path.exists() and b"morphogen-run-" in path.read_bytes()]
    assert not left


def test_protection_is_what_was_found_by_trying(tmp_path: Path) -> None:
    """The same attempts from here: a file outside is written exactly if `protection` says that it can be."""
    target = tmp_path / "mine"
    target.write_text("kept")
    run_python(f"open({str(target)!r}, 'w').close()", QUICK)
    assert (target.read_text() == "") == protection().writes_files
    outcome = run_python("print(open('/etc/passwd').read() and open(__file__).read()[:5])", QUICK)
    assert outcome.finished
    assert ("CAN" in protection().describe()) == (
        protection().network or protection().reads_files or protection().writes_files
    )
