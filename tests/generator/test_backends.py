"""The numba kernel equals the NumPy reference, cell for cell, over the space of specs."""

import hashlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator import parse_spec
from generator.families import nca
from tests.generator.spec_strategy import nca_specs

EVERY_HEALTH = list(HealthCheck)


def assert_equal(spec, seed, ids, attempts, backend):
    expected = nca.simulate(spec, seed, ids, attempts, "reference")
    found = nca.simulate(spec, seed, ids, attempts, backend)
    assert found.tokens.dtype == expected.tokens.dtype
    assert (found.tokens == expected.tokens).all()
    assert (found.content == expected.content).all()


FIXED = [
    {},
    {"compat": True, "temperature": 1e-4},
    {"colors": 15, "grid": [4, 6], "compat": {"init": "uniform"}, "identity_bias": 0.7, "temperature": 0.3},
    {"grid": [4, 4, 6], "colors": 2, "embed": 3, "hidden": 33, "stride": 2, "seq_len": 90},
    {"grid": [6, 6, 6], "colors": 3, "neighborhood": "von_neumann", "compat": True, "seq_len": 300},
    {"grid": [1, 5], "patch": 1, "colors": 200, "embed": 1, "hidden": 1, "burn_in": 0, "seq_len": 64},
    {"grid": [10, 3], "patch": 1, "colors": 5, "embed": 64, "hidden": 128, "burn_in": 1, "seq_len": 2},
    {"sequences_per_rule": 5, "colors": 6, "temperature": 5.0},
    {"grid": [4, 4], "colors": 20, "embed": 2, "hidden": 8, "seq_len": 60},  # 160,002 tokens: 32 bits each
]


@pytest.mark.parametrize("fields", FIXED, ids=range(len(FIXED)))
def test_numba_equals_the_reference(fields):
    spec = parse_spec(fields)
    ids = np.array([0, 1, 7, 1 << 33, (1 << 63) - 1])
    assert_equal(spec, (1 << 62) + 12345, ids, np.array([0, 1, 9, 32_000, 3]), "numba")


@pytest.mark.parametrize("cpu", [("generic", ""), ("haswell", "+avx,+avx2,+fma,+bmi,+bmi2")], ids=lambda cpu: cpu[0])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 processors")
def test_the_kernel_for_older_processors_gives_the_same_tokens(cpu, tmp_path):
    code = (
        "import hashlib, numpy as np; from generator import parse_spec; from generator.families import nca; "
        "made = nca.simulate(parse_spec({'compat': True}), 3, np.arange(5), np.zeros(5, np.int64), 'numba'); "
        "print(hashlib.sha256(made.tokens.tobytes()).hexdigest())"
    )
    older = {"NUMBA_CPU_NAME": cpu[0], "NUMBA_CPU_FEATURES": cpu[1], "NUMBA_CACHE_DIR": str(tmp_path)}
    plain = {**os.environ, **older}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    tokens = nca.simulate(parse_spec({"compat": True}), 3, np.arange(5), np.zeros(5, np.int64), "reference").tokens
    assert done.stdout.strip() == hashlib.sha256(tokens.tobytes()).hexdigest()


# Each example compiles a kernel for about two seconds: a few here, two hundred under `make soak`.
@settings(max_examples=4, deadline=None, suppress_health_check=EVERY_HEALTH, derandomize=True)
@given(spec=nca_specs(), seed=st.integers(0, 2**63 - 1), first=st.integers(0, 2**40))
def test_numba_equals_the_reference_on_drawn_specs(spec, seed, first):
    assert_equal(spec, seed, first + np.arange(3), np.array([0, 2, 5]), "numba")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=200, deadline=None, suppress_health_check=EVERY_HEALTH)
@given(spec=nca_specs(), seed=st.integers(0, 2**63 - 1), first=st.integers(0, 2**40))
def test_numba_equals_the_reference_on_200_drawn_specs(spec, seed, first):
    assert_equal(spec, seed, first + np.arange(3), np.array([0, 2, 5]), "numba")
