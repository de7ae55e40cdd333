"""Memory of training steps on a CPU: kept between them, instead of given back to the system and asked for again.

glibc returns large pieces as soon as they are free, and every page that is asked for anew is filled with zeros at its
first touch: ten thousand pages a step of a small model, 5 to 10 % of its time (measured: docs/decisions/0602).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt's numbers (malloc.h), what training wants, and the most that glibc's own adaption comes to, for afterwards.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 2**30
_USUAL_MMAP = 32 * 2**20


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within it, up to 1 GiB that the process frees stays its own; afterwards all that is free goes back.

    It counts for all threads. Without glibc's allocator it does nothing.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        yield
        return
    mallopt(_MMAP_THRESHOLD, _KEPT)
    mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP)
        trim(0)
