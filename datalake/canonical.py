"""One way to turn a JSON value into bytes, and bytes into a digest.

Digests name things across machines and years, so the bytes must not depend on dict order, locale or spacing: keys
sorted, no spaces, ASCII escapes, and no NaN or infinity, which JSON does not have.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from datalake.errors import CorruptObjectError


def canonical_json(value: Any) -> bytes:
    """Canonical UTF-8 JSON of ``value``. Raises ValueError on NaN or infinity, TypeError on what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 hex of ``canonical_json(value)``."""
    return sha256_hex(canonical_json(value))


def parse_json(data: bytes, key: str) -> Any:
    """Parse the object stored under ``key``; raise CorruptObjectError naming it if it is not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise CorruptObjectError(
            f"object {key} ({len(data)} bytes) is not JSON: {error}; restore it from a copy of the lake"
        ) from error
