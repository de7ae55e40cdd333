"""The 3-D lattice's memory and epoch time: `python -m benchmarks.lattice`, where that exists."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

from benchmarks.gpu.report import Report


def run(report: Report) -> None:
    """Each JSON line that the lattice's benchmark prints is a figure."""
    if find_spec("benchmarks.lattice") is None:
        report.figure(lattice="not there", needs="benchmarks/lattice.py")
        return
    device = ["--device", "cpu", "--toy"] if report.toy else ["--device", "cuda"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lattice", *device, "--json"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            print(line, end="", flush=True)
            continue
        report.figure(**(found if isinstance(found, dict) else {"found": found}))
    if code := process.wait():
        sys.exit(code)
