"""Memory that is freed while a model trains on a CPU is used again, and given back afterwards."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

from trainer.cpu_memory import keeping_freed_memory

MEBIBYTES = 24
PAGES = MEBIBYTES * 2**20 // resource.getpagesize()


def faults_of_one_piece() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = b"x" * (MEBIBYTES * 2**20)
    del piece
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def measure() -> None:
    """What the test below reads, from a process whose allocator nothing else has used."""
    outside = faults_of_one_piece()
    with keeping_freed_memory():
        faults_of_one_piece()
        again = faults_of_one_piece()
        with open("/proc/self/statm") as file:
            kept = int(file.read().split()[1])
    with open("/proc/self/statm") as file:
        after = int(file.read().split()[1])
    print(outside, again, kept - after)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the allocator is not glibc's")
def test_pages_are_touched_anew_only_outside() -> None:
    code = "from tests.trainer.test_cpu_memory import measure; measure()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside, again, given_back = map(int, ran.stdout.split())
    assert outside >= 0.9 * PAGES / 512  # at least one fault for each 2 MiB, should the system use huge pages
    assert again <= outside / 4
    assert given_back >= 0.9 * PAGES
