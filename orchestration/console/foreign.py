"""Text that others wrote, made fit to be shown: what a terminal would act upon is spelled out instead.

Names, messages, file names, columns and errors come from people and programs that we do not know. An escape sequence in
them moves the cursor or writes to the clipboard, a bidirectional control reorders the line, a newline forges another.
There is one function for a medium: ``shown`` for a line on a terminal and in a log, ``in_html`` for HTML and SVG,
``in_markdown`` and ``in_code`` for Markdown, ``as_json`` for JSON.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from html import escape
from typing import Any

from rich.text import Text

# What our own sentences hold beyond ASCII, for streams that cannot carry it.
_IN_ASCII = {
    "…": "...",
    "—": "-",
    "–": "-",
    "−": "-",
    "×": "x",
    "·": "-",
    "✓": "done:",
    "’": "'",
    "→": "->",
    "±": "+-",
    "█": "#",
    "▀": "#",
    "░": ".",
    "▒": "-",
    "▓": "+",
}
_ERRORS = "morphogen.ascii"
_DESCRIPTORS = {"stdin": 0, "stdout": 1, "stderr": 2}


def shown(value: object) -> str:
    """``value`` as one line in which every character prints: the others are spelled as Python would, such as ``\\x1b``.

    These are control and format characters (newlines, bidirectional controls, zero-width ones), surrogates, and what
    Unicode has not assigned or leaves to private use. Spaces of every width become plain ones.
    """
    text = value if isinstance(value, str) else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character.isprintable() else _spelled(character) for character in text)


def _spelled(character: str) -> str:
    if character.isspace() and character not in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029":
        return " "
    return character.encode("unicode_escape").decode("ascii")


def shown_lines(text: str) -> list[str]:
    """``text`` of many lines, such as a document's, each of them made fit to be shown."""
    return [shown(line.removesuffix("\r")) for line in text.split("\n")]


def in_html(value: object) -> str:
    """``value`` as one line of text in HTML or SVG, also within the quotes of an attribute."""
    return escape(shown(value), quote=True)


def in_html_lines(text: str) -> str:
    """Text of many lines as text in HTML; where lines are kept is for the element to say, such as ``<pre>``."""
    return escape("\n".join(shown_lines(text.expandtabs())))


_MARKDOWN = (
    (re.compile(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))"), r"\\\1"),  # emphasis, code, links, cells, mathematics
    (re.compile(r"^(#{1,6}|[+-])(?=\s|$)|^(?=(?:-+|=+)\s*$)"), r"\\\1"),  # headings, lists
    (re.compile(r"^(\d+)([.)])(?=\s|$)"), r"\1\\\2"),
    (re.compile(r"(?<!\w)@(?=\w)"), "@<!-- -->"),  # a mention, which GitHub looks for in what was rendered
    (re.compile(r"://"), "&#58;//"),  # addresses become links without any brackets
    (re.compile(r"\bwww\.", re.I), "www&#46;"),
)


def in_markdown(value: object) -> str:
    """``value`` as text in a line of Markdown, a cell of a table included: no markup, link, mention or HTML."""
    text = escape(shown(value).strip(), quote=False)
    for found, instead in _MARKDOWN:
        text = found.sub(instead, text)
    return text


def in_code(value: object) -> str:
    """``value`` as code in a line of Markdown, a cell of a table included."""
    text = shown(value).replace("|", "\\|")
    quotes = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{quotes} {text} {quotes}" if "`" in text else f"`{text}`"


def as_json(document: Any, indent: int | None = None) -> str:
    """``document`` as JSON in ASCII: control characters and lone surrogates are escaped.

    JSON has no number for what is none: those are the texts "NaN", "Infinity" and "-Infinity".
    """
    text = json.dumps(_finite(document), indent=indent, default=str, allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line put together from text and (text, style of rich); nothing in the text is taken for markup."""
    pairs = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((shown(text), style) for text, style in pairs))


def prepare_streams() -> None:
    """Make the standard streams fit for any text: none is closed, and what one cannot encode is spelled in ASCII.

    A closed descriptor is opened on the null device: otherwise the next file, perhaps an object of the lake, would get
    its number, and whatever a library prints would end up in it.
    """
    for name, descriptor in _DESCRIPTORS.items():
        if getattr(sys, name) is None:
            _open_null(descriptor)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def _open_null(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "registered for writing only"
    found: Any = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(each) or each.encode("unicode_escape").decode("ascii") for each in found), error.end


codecs.register_error(_ERRORS, _to_ascii)
