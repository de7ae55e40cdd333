"""One part in its own process: `python -m benchmarks.gpu.part NAME --figures FILE --seconds S [--toy]`.

Past its time the process writes where each of its threads is and ends, even if one of them holds the interpreter.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import time
from pathlib import Path

from benchmarks.arguments import above_zero
from benchmarks.gpu.report import Report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.part", description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--seconds", type=above_zero, required=True)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(options.seconds, exit=True)
    report = Report(options.figures, time.monotonic() + options.seconds, options.toy)
    importlib.import_module(f"benchmarks.gpu.{options.name}").run(report)


if __name__ == "__main__":
    main()
