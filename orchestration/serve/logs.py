"""What the server's log may hold: one line a message, no control characters, no token, no query of a URL."""

from __future__ import annotations

import logging
import re

from orchestration.console.foreign import shown, shown_lines

_TOKEN = re.compile(r"(?<![A-Za-z0-9])(m[gs])(?:_|%5f)([0-9a-z]{0,12})[^\s\"'&;,/?#]*", re.I)
_QUERY = re.compile(r"\?\S*")


def redacted(text: str) -> str:
    """``text`` with the secret part of every token taken out; its public id stays."""
    return _TOKEN.sub(r"\1_\2…", text)


class SafeFormatter(logging.Formatter):
    """Formats any record so; a traceback keeps its lines. Access lines lose their query, where tokens may stray."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = record.message
        if record.name == "uvicorn.access":
            text = _QUERY.sub("?…", text)
        record.message = shown(redacted(text))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        lines = shown_lines(redacted(super().formatException(ei)))  # type: ignore[arg-type]
        return "\n".join(f"  {line}" for line in lines)  # none looks like a line of the log
