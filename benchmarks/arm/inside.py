"""Run on the emulated machine: the digest of each spec of a file, by the kernels that this processor gets.

    python -m benchmarks.arm.inside SPECS.json

Prints one JSON object a line: first what LLVM says of the processor and the name of its kernels, then the digests.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import llvmlite.binding as llvm

from generator import parse_spec
from generator.nca.dots import kernel_name
from tests.generator.golden_specs import digest


def main() -> None:
    """Compute and print, one spec after the other, so that a run which is stopped has said something."""
    features = sorted(name for name, there in llvm.get_host_cpu_features().items() if there)
    print(
        json.dumps({"processor": llvm.get_host_cpu_name(), "features": features, "kernel": kernel_name()}), flush=True
    )
    for name, fields in json.loads(Path(sys.argv[1]).read_text()).items():
        started = time.process_time()
        found = digest(parse_spec(fields), backend="numba")
        print(
            json.dumps({"spec": name, "sha256": found, "seconds": round(time.process_time() - started, 1)}), flush=True
        )


if __name__ == "__main__":
    main()
