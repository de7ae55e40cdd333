"""What the processor can do that decides which kernel a CPU runs, and work that its threads share."""

from __future__ import annotations

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


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """One pool as long as torch's number of threads stays: few blocks use a part of it."""
    return ThreadPoolExecutor(threads, "kernel")


def in_threads(kernel: Callable[..., Any], given: tuple[Any, ...], blocks: int) -> None:
    """``kernel(*given, first, last)`` for all blocks, shared by torch's number of threads.

    Who computes a block must change nothing in it.
    """
    available = torch.get_num_threads()
    threads = min(available, blocks)
    if threads <= 1:
        kernel(*given, 0, blocks)
        return
    edges = [number * blocks // threads for number in range(threads + 1)]
    for each in [_pool(available).submit(kernel, *given, first, last) for first, last in pairwise(edges)]:
        each.result()
