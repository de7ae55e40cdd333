"""What starting costs: one small job with a Ray of its own, on a running head, and by `ray job submit`, turn by turn.

    python -m benchmarks.startup [--turns N] [--json]

Every turn generates one shard of the `tiny` preset into a new lake: what is measured is the way there. "command" is
`morphogen --version`, "submit nothing" a Ray job that does nothing. Medians over turns, with minimum and maximum.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from benchmarks.arguments import whole
from benchmarks.lake import machine
from datalake import Lake
from generator import load_preset

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
MORPHOGEN = [sys.executable, "-m", "orchestration"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=whole(), default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with head() as (address, dashboard), tempfile.TemporaryDirectory(prefix="morphogen-startup-") as folder:
        for turn in range(options.turns):
            for name, command, environment in ways(address, dashboard, folder):
                seconds.setdefault(name, []).append(timed(command, environment))
                print(f"turn {turn + 1}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "seconds": seconds}, indent=2))
        return
    print(machine())
    for name, each in seconds.items():
        print(f"{name:28} {statistics.median(each):6.1f} s  ({min(each):.1f} to {max(each):.1f})")


def ways(address: str, dashboard: str, folder: str) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """(name, command, environment) of each way to start, a new lake for each that generates."""
    submit = [RAY, "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
    yield "command", [*MORPHOGEN, "--version"], {}
    yield "generate, Ray of its own", [*MORPHOGEN, *generate(folder)], {"RAY_ADDRESS": ""}
    yield "generate, running head", [*MORPHOGEN, *generate(folder)], {"RAY_ADDRESS": address}
    yield "submit nothing", [*submit, sys.executable, "-c", "pass"], {"RAY_ADDRESS": ""}
    yield "submit generate", [*submit, *MORPHOGEN, *generate(folder)], {"RAY_ADDRESS": ""}


def generate(folder: str) -> list[str]:
    """The arguments that generate one shard into a new lake."""
    lake = Lake.open(tempfile.mkdtemp(dir=folder))
    lake.params.put("tiny", load_preset("tiny").model_dump(mode="json"))
    return ["generate", "tiny@1", "--tokens", "10000", "--lake", lake.uri]


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of one command, which must succeed."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.monotonic() - began


@contextmanager
def head() -> Iterator[tuple[str, str]]:
    """A Ray head on this machine: (address, dashboard's URL)."""
    context = ray.init(
        address="local", num_cpus=4, include_dashboard=True, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        yield ray.get_runtime_context().gcs_address, f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
