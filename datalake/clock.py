"""The outside world as one argument: clocks, nonces, jitter, sleep and author.

Whoever opens a lake may pass other ones (tests do), so nothing below reads a global clock or random generator. All
defaults are module-level functions, so that a lake can be pickled to another process.
"""

from __future__ import annotations

import getpass
import os
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def new_nonce() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


def uniform() -> float:
    """A random float in [0, 1)."""
    return random.random()


def default_author() -> str:
    """``MORPHOGEN_AUTHOR`` if set, else ``user@host``."""
    if named := os.environ.get("MORPHOGEN_AUTHOR"):
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's uid often has no passwd entry
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class System:
    """Clock (aware datetime), nonce (unique text), jitter (float in [0, 1)), sleep (seconds) and author (text).

    ``monotonic`` (seconds) measures durations: unlike the clock it never jumps.
    """

    clock: Callable[[], datetime] = utc_now
    nonce: Callable[[], str] = new_nonce
    jitter: Callable[[], float] = uniform
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    author: str = field(default_factory=default_author)

    def timestamp(self) -> str:
        """The clock's time as ISO 8601 UTC with milliseconds, such as ``2026-11-22T03:04:05.678Z``."""
        return self.clock().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def delay(self, attempt: int, base: float = 0.02, cap: float = 2.0) -> float:
        """A random time in seconds, up to min(cap, base * 2**attempt) ("full jitter")."""
        return self.jitter() * min(cap, base * 2.0 ** min(attempt, 16))

    def pause(self, attempt: int, base: float = 0.02, cap: float = 2.0) -> None:
        """Sleep for ``delay``."""
        self.sleep(self.delay(attempt, base, cap))
