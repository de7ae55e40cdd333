"""What the server's log may hold: one line a message, no control characters, no token, no query of a URL."""

from __future__ import annotations

import logging
import re

_TOKEN = re.compile(r"(?<![A-Za-z0-9])(m[gs])(?:_|%5f)([0-9a-z]{0,12})[^\s\"'&;,/?#]*", re.I)
_QUERY = re.compile(r"\?\S*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def redacted(text: str) -> str:
    """``text`` with the secret part of every token taken out; its public id stays."""
    return _TOKEN.sub(r"\1_\2…", text)


def printable(text: str) -> str:
    """``text`` with control characters, line ends included, and those that turn the writing direction, escaped."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class SafeFormatter(logging.Formatter):
    """Formats any record so; a traceback keeps its lines. Access lines lose their query, where tokens may stray."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = record.message
        if record.name == "uvicorn.access":
            text = _QUERY.sub("?…", text)
        record.message = printable(redacted(text))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return redacted(super().formatException(ei))  # type: ignore[arg-type]
