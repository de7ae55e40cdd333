"""`pytest -m cuda`: compiled kernels against the definition. Each test is a figure as soon as it ends.

Tests are run without the suite's conftest, which brings servers and Ray. In a toy run the kernel is interpreted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.report import Report

ROOT = Path(__file__).resolve().parents[2]
# A line of pytest, and one of several of its processes.
_RESULT = re.compile(r"^(?P<test>tests/\S+::.*?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED)\b")
_RESULT_OF_SEVERAL = re.compile(r"^\[gw\d+\] .*?(?P<outcome>PASSED|FAILED|ERROR|SKIPPED) (?P<test>tests/\S+::.*?) *$")
PROCESSES = 8


def run(report: Report) -> None:
    """Exit with 1 where a test fails."""
    if report.toy:
        command = [sys.executable, "-m", "tests.generator.interpret_triton", "fixed"]
        done = subprocess.run(command, cwd=ROOT, check=False)
        report.figure(test="interpreted kernel, fixed specs", outcome="FAILED" if done.returncode else "PASSED")
        sys.exit(done.returncode)
    tests = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    files = [str(path.relative_to(ROOT)) for path in tests]
    command = [sys.executable, "-m", "pytest", "-v", "-m", "cuda", "--noconftest", "-o", "addopts=", "--tb=short"]
    if find_spec("xdist"):  # compiling takes most of the time, and that a core each
        command += ["-n", str(max(1, min(PROCESSES, len(os.sched_getaffinity(0)) - 1)))]
    process = subprocess.Popen(
        [*command, "-p", "no:cacheprovider", *files], cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := _RESULT.match(line) or _RESULT_OF_SEVERAL.match(line):
            report.figure(test=found["test"], outcome=found["outcome"])
    if code := process.wait():
        sys.exit(code)
