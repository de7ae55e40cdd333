"""Importing the package is cheap: no compiler, no torch, nothing of ours."""

import subprocess
import sys


def test_importing_the_generator_loads_no_heavy_package():
    code = (
        "import sys, generator; "
        "print(*sorted({name.split('.')[0] for name in sys.modules} & "
        "{'numba', 'llvmlite', 'torch', 'triton', 'ray', 'datalake', 'trainer', 'orchestration'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
