"""Kernels for 64-bit Arm, read and not run: which instructions are chosen, by whatever name LLVM knows the processor.

`python -m benchmarks.arm run` runs them under an emulator.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest

from benchmarks.arm.counts import kernel_assembly, layers
from benchmarks.arm.cross import Target, context_for
from generator import load_preset, parse_spec
from generator.families import nca
from generator.nca import simd
from generator.nca.dots import NEON_MIXED, NEON_PLAIN, NEON_UNSIGNED, PLAIN, RAISE, Dot, choose_dot
from generator.nca.kernel_plan import kernel_plan
from generator.nca.kernel_scratch import allocate
from generator.nca.lattice import HIDDEN_MAX, LOGIT_LIMIT, Lattice
from generator.nca.numba_kernel import kernel_function
from generator.nca.simd import LANES
from generator.tables import WEIGHT_MAX

MOST_HIDDEN, MOST_BITS = 128, 8

# What LLVM says of the machine: on Linux a name and a list that lacks both dot products, on macOS perhaps no list, and
# a name that it does not know where the processor is newer than it, or hidden by a virtual machine.
CHOICES = [
    (Target("cortex-a72", "+neon,+crc,+aes,+sha2"), NEON_PLAIN),
    (Target("neoverse-n1", "+neon,+crc,+lse,+aes,+sha2"), NEON_UNSIGNED),
    (Target("neoverse-v1", "+neon,+lse"), NEON_MIXED),
    (Target("neoverse-v2"), NEON_MIXED),
    (Target("neoverse-v1", "-i8mm"), NEON_UNSIGNED),
    (Target("generic"), NEON_PLAIN),
    (Target("generic", "+neon,+dotprod"), NEON_UNSIGNED),
    (Target("generic", "+neon,+dotprod,+i8mm"), NEON_MIXED),
    (Target("apple-m1", triple="arm64-apple-darwin24.0.0"), NEON_UNSIGNED),
    (Target("apple-m2", triple="arm64-apple-darwin24.0.0"), NEON_MIXED),
    (Target("apple-m4", "+neon,+dotprod,+i8mm", "arm64-apple-darwin24.0.0"), NEON_MIXED),
    (Target("riscv", triple="riscv64-unknown-linux-gnu"), PLAIN),
]


@pytest.mark.parametrize(("target", "form"), CHOICES, ids=lambda value: getattr(value, "processor", ""))
def test_the_instructions_follow_from_the_name_or_the_features(target, form):
    assert choose_dot(context_for(target)) is form


@pytest.mark.parametrize(
    ("processor", "instruction", "products", "most"),
    [("neoverse-v1", "usdot", 160, 22), ("neoverse-n1", "udot", 160, 23), ("cortex-a72", "umlal", 80, 75)],
)
def test_the_second_layer_is_made_of_the_processor_s_products(processor, instruction, products, most):
    """Ten colours of four quads for four times four cells; `most` instructions a cell; portable code takes 140."""
    text = kernel_assembly(load_preset("paper").model_copy(update={"band": None}), Target(processor))
    hidden, second = layers(text)
    assert second[instruction] == products
    assert not {name for name in second if name.startswith(("mla", "mul", "sshll"))}
    assert second.total() <= most * LANES
    assert hidden["sqshrun"] == hidden["sqshrun2"] == 1, "the clamp and the packing are one instruction for eight"
    assert hidden.total() <= 36


def test_raised_weights_leave_room():
    assert WEIGHT_MAX < RAISE
    assert 2 * HIDDEN_MAX * (RAISE + WEIGHT_MAX) < 1 << 16
    assert (LOGIT_LIMIT + HIDDEN_MAX * RAISE * MOST_HIDDEN + 1) << MOST_BITS < 1 << 31
    assert nca.NcaSpec.model_fields["hidden"].metadata[-1].le == MOST_HIDDEN


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.5, "identity_bias": 0.3, "hidden": 20, "colors": 5}], ids=["plain", "noisy"]
)
def test_raised_weights_give_the_same_colours(fields, monkeypatch):
    """On any machine: the portable form, told to raise them, within a whole kernel."""
    raised = Dot("raised", PLAIN.sums, raised=RAISE)
    spec = parse_spec({"grid": [6, 6], "seq_len": 60, **fields})
    ids, none = np.arange(4), np.zeros(4, np.int64)
    expected = nca.simulate(spec, 5, ids, none, "reference")
    monkeypatch.setattr(simd, "choose_dot", lambda _context: raised)
    plan = kernel_plan(spec)
    gumbel = Lattice.of(spec).gumbel if spec.temperature else np.zeros(1, np.int32)
    tokens, scored = np.empty((4, spec.seq_len), spec.token_dtype), np.empty((4, spec.score_tokens), np.int32)
    run = numba.njit(kernel_function(plan))
    run(np.uint64(5), ids, none, ids, none, gumbel, allocate(plan), tokens, scored)
    assert (tokens == expected.tokens).all()
    assert (scored == expected.content).all()
