"""Every form of the four-byte dot product that this machine can run gives the same sums, at the extremes too."""

from __future__ import annotations

import re
from typing import Any

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from benchmarks.peak import CHAINS, dot_chains
from generator.arm_instructions import dot_instructions
from generator.lattice import simd as lattice_simd
from generator.nca.dots import AVX2, NEON_MIXED, NEON_PLAIN, NEON_UNSIGNED, PLAIN, SSE2, VNNI, Dot, choose_dot
from generator.nca.simd import LANES
from generator.vector_code import on_arm, on_x86


def compiled_dot(dot: Any, options: dict[str, int], lanes: int = LANES) -> Any:
    """f(total int32 [16], bytes uint8 [64], weights int8 [64], out int32 [16]) by one form of the product; with other
    ``lanes`` of as many 32 bits each."""

    @intrinsic
    def apply(_typing, total, bytes_, weights, out):
        def codegen(context, builder, sig, args):
            kind = ir.VectorType(ir.IntType(32), lanes)
            places = [
                builder.bitcast(context.make_array(of)(context, builder, arg).data, kind.as_pointer())
                for of, arg in zip(sig.args, args, strict=True)
            ]
            loaded = [builder.load(place, align=1) for place in places[:3]]
            builder.store(dot(builder, *loaded, **options), places[3], align=1)
            return context.get_dummy_value()

        return types.void(total, bytes_, weights, out), codegen

    @numba.njit
    def run(total, bytes_, weights, out):
        apply(total, bytes_, weights, out)

    return run


def target() -> tuple[str, str]:
    triple, _, features = (str(part) for part in numba.core.registry.cpu_target.target_context.codegen().magic_tuple())
    return triple, features


def forms() -> list[tuple[Dot, int]]:
    """Every form that this machine can run, with shifts."""
    triple, features = target()
    found = [(PLAIN, 0)]
    if on_x86(triple):
        found += [(SSE2, 0), (SSE2, 8)]
    if "+avx2" in features:
        found += [(AVX2, 0), (AVX2, 4), (AVX2, 8)]
    if "+avx512vnni" in features:
        found += [(VNNI, 0)]
    if on_arm(triple):
        there = dot_instructions(*numba.core.registry.cpu_target.target_context.codegen().magic_tuple())
        found += [(NEON_PLAIN, 0)] + [(NEON_UNSIGNED, 0)] * ("udot" in there) + [(NEON_MIXED, 0)] * ("usdot" in there)
    return found


@pytest.mark.parametrize("quads", [1, 2, 3])
@pytest.mark.parametrize(("dot", "shift"), forms(), ids=lambda value: getattr(value, "name", value))
def test_a_form_equals_numpy(dot, shift, quads):
    def repeated(builder, total, bytes_, weights):
        options = {"shift": shift} if shift else {}
        return dot.sums(builder, total, [bytes_] * quads, [weights] * quads, **options)

    run = compiled_dot(repeated, {})
    random = np.random.Generator(np.random.Philox(1))
    for turn in range(50):
        bytes_ = random.integers(0, 256, 64).astype(np.uint8) if turn else np.full(64, 255, np.uint8)
        weights = random.integers(-62, 63, 64).astype(np.int8) if turn > 1 else np.full(64, 62 - 124 * turn, np.int8)
        weights += np.int8(dot.raised)
        total = random.integers(-(1 << 20), 1 << 20, LANES).astype(np.int32)
        out = np.zeros(LANES, np.int32)
        run(total, bytes_, weights, out)
        products = (bytes_.astype(np.int32) * weights.astype(np.int32)).reshape(LANES, 4).sum(1)
        assert (out == total + (quads * products << shift)).all()


@pytest.mark.parametrize("form", [lattice_simd.pairs_plain, lattice_simd.pairs_sse2, lattice_simd.pairs_avx2])
def test_a_form_of_two_products_equals_numpy(form):
    """On a machine without its instruction a form would not run; the plain one runs anywhere."""
    triple, features = target()
    if form is not lattice_simd.pairs_plain and not on_x86(triple):
        form = lattice_simd.pairs_plain
    if form is lattice_simd.pairs_avx2 and "+avx2" not in features:
        form = lattice_simd.pairs_sse2
    lanes = lattice_simd.LANES
    run = compiled_dot(form, {}, lanes)
    random = np.random.Generator(np.random.Philox(2))
    for turn in range(50):
        left, right = (random.integers(-128, 128, 2 * lanes).astype(np.int16) for _ in range(2))
        if turn < 2:
            left[:], right[:] = -128, 127 - 255 * turn
        total = random.integers(-(1 << 24), 1 << 24, lanes).astype(np.int32)
        out = np.zeros(lanes, np.int32)
        run(total, left, right, out)
        assert (out == total + (left.astype(np.int32) * right).reshape(lanes, 2).sum(1)).all()


def test_this_machine_uses_the_best_that_it_has():
    class Context:
        @staticmethod
        def codegen():
            return numba.core.registry.cpu_target.target_context.codegen()

    assert choose_dot(Context()) is forms()[-1][0]


@pytest.mark.skipif(not on_x86(target()[0]), reason="counts instructions of x86")
def test_the_measured_peak_multiplies_in_every_round():
    run = dot_chains(CHAINS[0])
    assembly = "\n".join(run.inspect_asm().values())
    products = re.findall(r"\bv?(?:pmaddwd|pmaddubsw|pdpbusd)\b", assembly)
    assert len(products) >= CHAINS[0], "the compiler has moved the products out of the loop"
    assert run(1, 2) != run(1, 3)
