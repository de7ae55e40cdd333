"""Reading a file that somebody names: a regular one, whole, and no more than it may be.

A pipe would be waited for without end, and a device such as /dev/zero has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading, links followed. Raises OSError, also for a pipe, a device or a folder."""
    # What is at the path may have changed since it was looked at, and opening a pipe would wait without O_NONBLOCK.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb", buffering=buffering)
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, os.strerror(number) if stat.S_ISDIR(mode) else "Not a regular file", str(path))


def read_bounded(path: Path, most: int) -> bytes | None:
    """Return the bytes of a regular file, None if they are more than ``most``. Raises OSError."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    return data if len(data) <= most else None
