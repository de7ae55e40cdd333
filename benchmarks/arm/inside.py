"""Run on the emulated machine: sizes and digests by the kernels that this processor gets.

    python -m benchmarks.arm.inside ROWS.npz SPECS.json

Prints one JSON object a line: first what LLVM says of the processor and the name of its kernels, then of how many rows
gzip's size is another than the archive has, then the digest of each spec.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

from generator import parse_spec
from generator.gzip_kernel import stream_sizes
from generator.nca.dots import kernel_name
from tests.generator.golden_specs import digest


def main() -> None:
    """Compute and print, one spec after the other, so that a run which is stopped has said something."""
    features = sorted(name for name, there in llvm.get_host_cpu_features().items() if there)
    print(
        json.dumps({"processor": llvm.get_host_cpu_name(), "features": features, "kernel": kernel_name()}), flush=True
    )
    with np.load(sys.argv[1]) as archive:
        names = [name for name in archive.files if not name.startswith("sizes ")]
        unlike = {name: int((stream_sizes(archive[name]) != archive[f"sizes {name}"]).sum()) for name in names}
        rows = sum(len(archive[name]) for name in names)
    print(json.dumps({"rows": rows, "unlike": {name: count for name, count in unlike.items() if count}}), flush=True)
    for name, fields in json.loads(Path(sys.argv[2]).read_text()).items():
        started = time.process_time()
        found = digest(parse_spec(fields), backend="numba")
        print(
            json.dumps({"spec": name, "sha256": found, "seconds": round(time.process_time() - started, 1)}), flush=True
        )


if __name__ == "__main__":
    main()
