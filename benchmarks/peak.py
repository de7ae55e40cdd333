"""The most byte products a second that one core of this machine sustains, by the instructions that the kernel uses."""

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from generator.nca.dots import choose_dot
from generator.nca.simd import LANES
from generator.vector_code import splat

# Independent sums: enough of them to hide an instruction's latency, few enough to stay in the registers. Which number
# is best hangs on how many registers a sum takes, so several are tried.
CHAINS = (4, 6, 12)


def dot_chains(chains: int) -> Callable[[int, int], int]:
    """run(seed, rounds): compute ``rounds`` times ``chains`` dot products, and return something that depends on all."""

    @intrinsic
    def dots(_typing: Any, _seed: Any, _rounds: Any) -> tuple[Any, Callable[..., Any]]:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            del sig
            dot = choose_dot(context)
            lane = ir.VectorType(ir.IntType(32), LANES)
            # No lane and no chain may begin as another does, or as a constant: the compiler would compute one for both.
            value = builder.xor(splat(builder, args[0], LANES), _odd_lanes(1))
            starts = [builder.xor(value, _odd_lanes(LANES * number)) for number in range(1, chains + 1)]
            entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            turn = builder.phi(ir.IntType(64))
            turn.add_incoming(ir.Constant(ir.IntType(64), 0), entry)
            sums = [builder.phi(lane) for _ in range(chains)]
            for number, total in enumerate(sums):
                total.add_incoming(starts[number], entry)
            # A factor that the loop does not change would be multiplied once, before it, and only added within.
            after = [dot.sums(builder, total, [total], [value]) for total in sums]
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

    def run(seed: int, rounds: int) -> int:
        return dots(np.int32(seed), rounds)  # type: ignore[call-arg]

    return numba.njit("int32(int64, int64)", nogil=True)(run)


def _odd_lanes(first: int) -> ir.Constant:
    """Numbers of 32 bits, no two of them equal, one a lane."""
    numbers = [(first + lane) * 0x9E3779B1 & 0x7FFFFFFF for lane in range(LANES)]
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), numbers)


def measured_peak() -> float:
    """Operations (multiplies and adds) per second of one core: the best of five tries with each number of chains."""
    return max(_rate(chains) for chains in CHAINS)


def _rate(chains: int) -> float:
    run, rounds = dot_chains(chains), 12_000_000 // chains
    best = float("inf")
    for number in range(5):
        started = time.perf_counter()
        run(number, rounds)
        best = min(best, time.perf_counter() - started)
    return rounds * chains * LANES * 4 * 2 / best
