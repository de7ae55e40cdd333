"""What the processor can do that decides which kernel a CPU runs, and work that its threads share."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

_CAPABILITIES = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}

HAS_AMX = bool(_CAPABILITIES.get("amx_bf16"))
"""Whether it multiplies tiles of bfloat16."""

HAS_AVX512 = bool(_CAPABILITIES.get("avx512_f"))
"""Whether it has 32 registers of sixteen float32."""


Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""What a parallel region has each thread call."""


@lru_cache(maxsize=1)
def openmp() -> Any:
    """What begins a parallel region in the OpenMP that PyTorch is linked with; None if it goes by another name."""
    try:
        begin = ctypes.CDLL(torch._C.__file__).GOMP_parallel  # a library's dependencies are searched, too
    except (OSError, AttributeError):
        return None
    begin.argtypes, begin.restype = (Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return begin


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """One pool as long as torch's number of threads stays: few blocks use a part of it."""
    return ThreadPoolExecutor(threads, "kernel")


def in_threads(kernel: Callable[..., Any], given: tuple[Any, ...], blocks: int) -> None:
    """``kernel(*given, first, last)`` for all blocks, shared by torch's number of threads.

    They are torch's own threads where that can be had: these wait for their next work without giving the processor
    back, and others would share it with them. Who computes a block must change nothing in it.
    """
    available = torch.get_num_threads()
    threads = min(available, blocks)
    if threads <= 1:
        kernel(*given, 0, blocks)
        return
    shares = list(pairwise(number * blocks // threads for number in range(threads + 1)))
    begin = openmp()
    if begin is None:
        for each in [_pool(available).submit(kernel, *given, first, last) for first, last in shares]:
            each.result()
        return
    left, failures = iter(shares), []

    def body(_: object) -> None:
        try:
            for first, last in left:
                kernel(*given, first, last)
        except BaseException as failure:  # noqa: BLE001 - C could not pass it on
            failures.append(failure)

    begin(Body(body), None, threads, 0)
    if failures:
        raise failures[0]
