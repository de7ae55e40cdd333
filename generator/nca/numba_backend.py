"""The numba backend: one compiled kernel per set of spec constants, kept for the life of the process."""

from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from generator.nca.kernel_plan import kernel_plan
from generator.nca.kernel_scratch import allocate
from generator.nca.lattice import Lattice
from generator.nca.numba_kernel import build_kernel
from generator.nca.rules import rule_address
from generator.nca.spec import NcaSpec

# Threads that meet a spec together should compile it once.
_BUILDING = Lock()


def _kernel(spec: NcaSpec) -> Any:
    with _BUILDING:
        return _build(spec)


@lru_cache(maxsize=64)
def _build(spec: NcaSpec) -> Any:
    plan = kernel_plan(spec)
    gumbel = Lattice.of(spec).gumbel if spec.temperature else np.zeros(1, np.int32)
    return build_kernel(plan), plan, gumbel


def simulate_tokens(
    spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `spec.token_dtype` [N, seq_len] and scored content int32 [N, score_tokens]; the GIL is free meanwhile."""
    # The band has no part in the dynamics: specs that differ in it share a kernel.
    kernel, plan, gumbel = _kernel(spec.model_copy(update={"band": None, "sequences_per_rule": 1}))
    ids = np.ascontiguousarray(ids_N, dtype=np.int64)
    attempts = np.ascontiguousarray(attempts_N, dtype=np.int64)
    groups, tries = (np.ascontiguousarray(a, dtype=np.int64) for a in rule_address(spec, ids, attempts))
    tokens = np.empty((len(ids), spec.seq_len), spec.token_dtype)
    scored = np.empty((len(ids), spec.score_tokens), np.int32)
    kernel(np.uint64(seed), ids, attempts, groups, tries, gumbel, allocate(plan), tokens, scored)
    return tokens, scored
