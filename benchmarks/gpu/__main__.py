"""Measure what only a GPU can tell, within a given time, most important first.

    python -m benchmarks.gpu [--minutes 8] [--out DIR] [--parts NAME …] [--data DIR] [--toy]

equality: the compiled Triton kernels against NumPy and numba; generator: tokens a second of simulation, tokens and
scored shards, registers, occupancy, share of the integer peak; trainer: MFU and memory beside transformers; feeding:
what a training step waits for computed rows; lattice: memory and epoch time; comparison: a 20-million-parameter model
with and without carried attention, with the time that is left. Needs what `packages.txt` beside this file names, no
network, no Ray, no S3. DIR gets `results.json`, `results.md` and a log of each part. --toy does all of it on a CPU with
sizes that mean nothing, in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.arguments import above_zero, existing_folder, folder
from benchmarks.gpu.conductor import Part, Results, conduct, has_cuda_driver, machine_facts
from benchmarks.gpu.page import page
from benchmarks.gpu.report import COMPARISON_DATA

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ("torch", "numpy", "pyarrow", "pydantic", "tenacity", "cachetools")
KERNELS = (*TRAINER, "triton", "numba")


def plan(toy: bool) -> list[Part]:
    """The parts, most important first, with their shares of eight minutes in seconds."""

    def part(name: str, share: float, least: float, needs: tuple[str, ...]) -> Part:
        command = (sys.executable, "-m", "benchmarks.gpu.part", name, *(["--toy"] if toy else []))
        return Part(name, command, share, 0.0 if toy else least, needs)

    return [
        part("equality", 110, 20, (*KERNELS, "pytest", "hypothesis")),
        part("generator", 90, 20, KERNELS),
        part("trainer", 130, 30, TRAINER),
        part("feeding", 45, 20, KERNELS),
        part("lattice", 45, 20, TRAINER),
        part("comparison", 60, 40, KERNELS),
    ]


def environment(work: Path, toy: bool) -> dict[str, str]:
    """That of the parts: no network, output unbuffered, one place for compiled kernels, so that parts share them."""
    found = dict(os.environ)
    found |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "MORPHOGEN_CACHE": "off",
        "TRITON_CACHE_DIR": str(work / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "NUMBA_CACHE_DIR": str(work / "numba"),
        "TMPDIR": str(work),
    }
    if toy:
        found |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    return found


def interrupt(*_: Any) -> None:
    """End as Ctrl-C does: what was found is written, what was started is killed."""
    raise KeyboardInterrupt


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in plan(False)]
    parser.add_argument("--minutes", type=above_zero, default=8.0, help="for all of it; default 8")
    parser.add_argument(
        "--out", type=folder, default=Path("gpu-results"), help="folder of results; default gpu-results"
    )
    parser.add_argument("--parts", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}; default all")
    parser.add_argument("--toy", action="store_true", help="on the CPU, with sizes that mean nothing")
    parser.add_argument(
        "--data", type=existing_folder, help="what `python -m benchmarks.gpu.comparison DIR` made; default: anew"
    )
    options = parser.parse_args()
    if not 0.05 <= options.minutes <= 24 * 60:
        parser.error(f"--minutes {options.minutes:g}: allowed are 0.05 to 1440; give another number")
    if not (options.toy or has_cuda_driver()):
        parser.error("this machine has no CUDA driver; run it where there is a GPU, or with --toy on the CPU")
    signal.signal(signal.SIGTERM, interrupt)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in plan(options.toy) if options.parts is None or part.name in options.parts]
    packages = [
        line.partition(">=")[0]
        for line in Path(__file__).with_name("packages.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    data = {COMPARISON_DATA: str(options.data.resolve())} if options.data else {}
    results = Results(machine_facts(packages), options.minutes, options.toy)
    with tempfile.TemporaryDirectory(prefix="morphogen-gpu-", ignore_cleanup_errors=True) as work:
        try:
            conduct(
                parts,
                results,
                options.out.resolve(),
                ends=began + 60 * options.minutes,
                environment=environment(Path(work), options.toy) | data,
                say=lambda line: print(line, flush=True),
            )
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            (options.out / "results.md").write_text(page(results), encoding="utf-8")
    print(f"{options.out}/results.json, {options.out}/results.md")
    if any(part.status == "failed" for part in results.parts):
        sys.exit(1)


if __name__ == "__main__":
    main()
