"""What happens in the lake, told as it happens: records of the standard logger ``morphogen``, each with its fields.

Whoever runs the process decides what becomes of them (JSON lines, counters, nothing); a library only tells.
"""

from __future__ import annotations

import logging
from typing import Any

logging.getLogger("morphogen").addHandler(logging.NullHandler())


def log_event(event: str, /, *, level: int = logging.INFO, logger: str = "morphogen.datalake", **fields: Any) -> None:
    """Tell one event. ``fields`` are JSON values without secrets; they are the record's attribute ``fields``."""
    logging.getLogger(logger).log(level, event, extra={"fields": fields})
