"""Safe retries: a request's Idempotency-Key is kept in the very log entry that it appended (``VersionLog.update``).

So "was this done already?" and "do it" are one compare-and-set on the log's head: two replicas that get the same
request at once append one entry, and a client whose answer was lost gets that answer when it asks again. A name keeps
its last 128 keys. A refused request changes nothing and keeps no key.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import Header

from datalake.canonical import digest_of
from datalake.log.version_log import ChangeRequest

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A fresh random text per change; a retry with the same one is answered as the first was.",
    ),
]

REPLAYED = "Idempotent-Replayed"


def change_request(key: str | None, sender: str, asked: Any) -> ChangeRequest | None:
    """The request behind an Idempotency-Key, bound to who sent it; None without. ``asked`` (JSON) is all of it."""
    if key is None:
        return None
    return ChangeRequest(hashlib.sha256(f"{sender}\n{key}".encode()).hexdigest()[:32], digest_of(asked)[:32])
