"""Run by test_triton in a process of its own, because Triton decides at import whether it interprets.

`python -m tests.generator.interpret_triton fixed` or `... drawn N`: exits non-zero where the kernel, interpreted on the
CPU, differs from the reference.
"""

import sys

import numpy as np
from hypothesis import HealthCheck, given, settings

from generator import parse_spec
from tests.generator.spec_strategy import nca_specs
from tests.generator.test_backends import assert_equal

FIXED = [
    {"grid": [4, 4], "seq_len": 40, "burn_in": 2, "compat": True},
    {
        "colors": 15,
        "grid": [2, 6],
        "compat": {"init": "uniform"},
        "identity_bias": 0.7,
        "temperature": 0.3,
        "seq_len": 9,
    },
    {"grid": [4, 4, 6], "colors": 2, "embed": 3, "hidden": 33, "seq_len": 90},
    {"grid": [4, 4, 4], "colors": 3, "neighborhood": "von_neumann", "compat": True, "seq_len": 100, "burn_in": 0},
    {"grid": [1, 5], "patch": 1, "colors": 200, "embed": 1, "hidden": 1, "burn_in": 0, "seq_len": 64},
    {"sequences_per_rule": 5, "colors": 6, "grid": [4, 2], "seq_len": 20, "burn_in": 1},
    {"grid": [2, 4], "colors": 20, "embed": 1, "hidden": 4, "seq_len": 12, "burn_in": 1},
]


def fixed() -> None:
    """Fixed specs at a large seed, id and attempt."""
    for fields in FIXED:
        assert_equal(parse_spec(fields), (1 << 62) + 12345, np.array([(1 << 63) - 1]), np.array([32_000]), "triton")


def drawn(examples: int) -> None:
    """Drawn specs."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(spec=nca_specs())
    def equal(spec):
        assert_equal(spec, 77, np.array([0, 9]), np.array([0, 4]), "triton")

    equal()


if __name__ == "__main__":
    if sys.argv[1] == "fixed":
        fixed()
    else:
        drawn(int(sys.argv[2]))
