"""Tokens a second of every stage, and how the kernel uses the machine: registers, occupancy, share of integer peak."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.generator import RUNS, integer_operations_per_token, measure
from benchmarks.gpu.integer_peak import measured_peak
from benchmarks.gpu.report import Report
from generator import load_preset, parse_spec
from generator.batch import thread_count
from generator.nca.spec import NcaSpec
from generator.nca.triton_backend import interpreted, launch_kernel

GOAL_TOKENS_PER_S = 1e9
TOY = {"grid": [4, 4], "colors": 3, "seq_len": 60, "burn_in": 1}


def run(report: Report) -> None:
    """Stages as they are measured, then the kernel, then the peak. What fails is a figure, and the rest goes on."""
    spec = parse_spec(TOY) if report.toy else load_preset("paper")
    assert isinstance(spec, NcaSpec)
    rates: dict[str, float] = {}
    failed = [
        _tried(report, "stages", lambda: _stages(report, spec, rates)),
        _tried(report, "kernel", lambda: report.figure(**kernel_facts(spec))),
        _tried(report, "peak", lambda: _peak(report, spec, rates)),
    ]
    if any(failed):
        sys.exit(1)


def _tried(report: Report, what: str, act: Callable[[], object]) -> bool:
    """Whether it failed, which is written down."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - one failure must not lose the rest; it is in the results and the status
        report.figure(failed=what, error=f"{type(error).__name__}: {error}")
        return True
    return False


def _stages(report: Report, spec: NcaSpec, rates: dict[str, float]) -> None:
    for figure in measure("triton", thread_count(None), spec, runs=1 if report.toy else RUNS):
        rates[figure.stage] = figure.tokens_per_s
        goal = figure.tokens_per_s >= GOAL_TOKENS_PER_S if figure.stage == "simulate" else None
        report.figure(**asdict(figure), goal_met=goal)


def kernel_facts(spec: NcaSpec) -> dict[str, Any]:
    """Registers, spills, shared memory of the compiled kernel, and how much of a multiprocessor its programs fill."""
    if interpreted():
        return {"kernel": "interpreted"}
    ids = np.arange(64, dtype=np.int64)
    kernel = launch_kernel(spec, 0, ids, np.zeros_like(ids))[1]
    import torch

    device = torch.cuda.get_device_properties(0)
    warps, shared = int(kernel.metadata.num_warps), int(kernel.metadata.shared)
    registers = int(kernel.n_regs)
    facts: dict[str, Any] = {
        "kernel": "run_sequences",
        "registers": registers,
        "spills": int(kernel.n_spills),
        "shared_bytes": shared,
        "warps": warps,
        "multiprocessors": device.multi_processor_count,
    }
    # A warp's registers come in units of 256; each program's shared memory has one KiB of the system's beside it.
    per_warp = -(-registers * 32 // 256) * 256
    limits = {
        "registers": getattr(device, "regs_per_multiprocessor", 65_536) // (per_warp * warps),
        "threads": getattr(device, "max_threads_per_multi_processor", 2048) // (32 * warps),
        "shared memory": getattr(device, "shared_memory_per_multiprocessor", 233_472) // (shared + 1024),
    }
    by = min(limits, key=lambda name: limits[name])
    most = getattr(device, "max_threads_per_multi_processor", 2048) // 32
    return facts | {
        "programs_per_multiprocessor": limits[by],
        "bounded_by": by,
        "occupancy": limits[by] * warps / most,
    }


def _peak(report: Report, spec: NcaSpec, rates: dict[str, float]) -> None:
    """The share counts gathers' adds, shifts, clamps and maxima; the second layer is the tensor cores' work."""
    peak = measured_peak(report.toy)
    operations = integer_operations_per_token(spec, products=False)
    share = rates["simulate"] * operations / peak if "simulate" in rates else None
    report.figure(peak_int32_operations_per_s=peak, operations_per_token=operations, share_of_peak=share)
