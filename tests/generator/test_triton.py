"""The Triton kernel: interpreted on the CPU everywhere, compiled for Hopper where ptxas is, run where a GPU is."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from generator import BackendError, generate_batch, load_preset, parse_spec
from tests.generator.test_backends import FIXED, assert_equal

ROOT = Path(__file__).parents[2]


def interpret(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.generator.interpret_triton", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_interpreted_kernel_equals_the_reference():
    interpret("fixed")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_interpreted_kernel_equals_the_reference_on_200_drawn_specs():
    interpret("drawn", "200")


def test_the_kernel_compiles_for_hopper():
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from generator.nca.triton_backend import kernel_constants, launch_options
    from generator.nca.triton_kernel import run_sequences

    fields = {"grid": [8, 8], "colors": 4, "compat": True, "temperature": 0.1, "identity_bias": 0.5}
    constants = kernel_constants(parse_spec(fields))
    names = run_sequences.arg_names
    special = {"tokens": "*i16", "tables": "*i16", "weight_q": "*i8", "count": "i32"}
    signature = {name: "constexpr" if name in constants else special.get(name, "*i32") for name in names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(run_sequences, signature, {(names.index(k),): v for k, v in constants.items()}, aligned)
    compiled = triton_compile(source, target=GPUTarget("cuda", 90, 32), options=launch_options(constants))
    assert len(compiled.asm["cubin"]) > 10_000


def test_the_backend_is_refused_in_one_line_without_a_device():
    from generator.nca.triton_backend import available

    if available():  # then it is asked for, and works
        assert generate_batch(load_preset("tiny"), 0, 0, 1, backend="triton").num_rows == 1
        return
    with pytest.raises(BackendError, match="'triton' found no CUDA device"):
        generate_batch(load_preset("tiny"), 0, 0, 1, backend="triton")


@pytest.mark.cuda
@pytest.mark.parametrize("fields", FIXED, ids=range(len(FIXED)))
def test_the_compiled_kernel_equals_numba_at_full_size(fields):
    spec = parse_spec(fields)
    ids, attempts = np.arange(3000) * 977, np.arange(3000) % 11
    from generator.families import nca

    found = nca.simulate(spec, (1 << 62) + 5, ids, attempts, "triton")
    expected = nca.simulate(spec, (1 << 62) + 5, ids, attempts, "numba")
    assert (found.tokens == expected.tokens).all()
    assert (found.content == expected.content).all()
    assert_equal(spec, (1 << 62) + 5, ids[:3], attempts[:3], "triton")


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["paper", "code", "tiny", "volume"])
def test_presets_are_the_same_tables_on_the_device(name):
    spec = load_preset(name)
    assert generate_batch(spec, 9, 100, 4000, backend="triton").equals(
        generate_batch(spec, 9, 100, 4000, backend="numba")
    )
