"""The 3-D lattice's memory and epoch time, from a few updates at full size."""

from __future__ import annotations

from benchmarks.gpu.report import Report
from benchmarks.lattice import epoch


def run(report: Report) -> None:
    """One figure: seconds of an epoch, peak bytes, and what they are made of."""
    report.figure(**epoch(report.toy, "cpu" if report.toy else "cuda"))
