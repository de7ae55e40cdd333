"""The 32-bit integer operations a second that the device sustains: chains of multiply-adds that nothing can fold."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import time

import torch
import triton
import triton.language as tl

from generator.nca.triton_backend import interpreted

BLOCK = 1024
UNROLLED = 16


@triton.jit
def chains(values, factor, term, rounds, BLOCK: tl.constexpr, UNROLLED: tl.constexpr):
    """values int32 [programs * BLOCK] = value * factor + term, `rounds` * UNROLLED times; factor and term int32 [1]."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(values + at)
    by = tl.load(factor)
    more = tl.load(term)
    for _ in range(rounds):
        for _ in tl.static_range(UNROLLED):
            value = value * by + more
    tl.store(values + at, value)


def measured_peak(toy: bool = False) -> float:
    """Operations (a multiply and an add each) per second of the whole device, best of five."""
    device = torch.device("cpu" if interpreted() else "cuda")
    programs, rounds = (1, 2) if toy else (132 * 64, 4096)
    values = torch.arange(programs * BLOCK, dtype=torch.int32, device=device)
    factor, term = (torch.tensor([number], dtype=torch.int32, device=device) for number in (5, 7))
    best = float("inf")
    for number in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        chains[(programs,)](values, factor, term, rounds, BLOCK=BLOCK, UNROLLED=UNROLLED, num_warps=4)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            best = min(best, time.perf_counter() - began)
    return programs * BLOCK * rounds * UNROLLED * 2 / best
