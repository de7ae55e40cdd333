"""The curve of a run: JSON lines, one chunk per checkpoint, so that a resumed run has each step exactly once.

A chunk is named in the run's log together with the checkpoint it ends at. What a killed attempt logged after its last
checkpoint is lost with it and logged again, to the same bits, by the attempt that resumes there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def encode_records(records: Iterable[Record]) -> bytes:
    """One JSON object a line, keys in the order they were logged; ValueError on NaN or infinity."""
    return b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)


def decode_records(data: bytes) -> list[Record]:
    """The records of a chunk."""
    return [json.loads(line) for line in data.splitlines()]
