"""The most byte products a second that one core of this machine sustains, by the instructions that the kernel uses."""

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from generator.nca.simd import LANES, choose_dot, constant

CHAINS = 12


@intrinsic
def _dot_chains(_typing: Any, _seed: Any, _rounds: Any) -> tuple[Any, Callable[..., Any]]:
    """`rounds` times CHAINS independent dot-product instructions; returns something that depends on all."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        del sig
        dot, _ = choose_dot(context)
        lane = ir.VectorType(ir.IntType(32), LANES)
        value = builder.insert_element(constant(ir.IntType(32), 3, LANES), args[0], ir.Constant(ir.IntType(32), 0))
        entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        turn = builder.phi(ir.IntType(64))
        turn.add_incoming(ir.Constant(ir.IntType(64), 0), entry)
        sums = [builder.phi(lane) for _ in range(CHAINS)]
        for number, total in enumerate(sums):
            total.add_incoming(constant(ir.IntType(32), number, LANES), entry)
        after = [dot(builder, total, value, value) for total in sums]
        following = builder.add(turn, ir.Constant(ir.IntType(64), 1))
        for total, result in zip(sums, after, strict=True):
            total.add_incoming(result, loop)
        turn.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, args[1]), loop, done)
        builder.position_at_end(done)
        joined = after[0]
        for result in after[1:]:
            joined = builder.add(joined, result)
        return builder.extract_element(joined, ir.Constant(ir.IntType(32), 0))

    return types.int32(types.int32, types.int64), codegen


@numba.njit(nogil=True)
def _run(seed: int, rounds: int) -> int:
    return _dot_chains(np.int32(seed), rounds)  # type: ignore[call-arg]


def measured_peak() -> float:
    """Operations (multiplies and adds) per second of one core, best of five."""
    _run(1, 10)
    rounds = 2_000_000
    best = float("inf")
    for number in range(5):
        started = time.perf_counter()
        _run(number, rounds)
        best = min(best, time.perf_counter() - started)
    return rounds * CHAINS * LANES * 4 * 2 / best
