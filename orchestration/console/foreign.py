"""Text that others wrote, made fit to be shown: what a terminal would act upon is spelled out instead.

Names, messages, file names, columns and errors come from people and programs that we do not know. An escape sequence in
them moves the cursor or writes to the clipboard, a bidirectional control reorders the line, a newline forges another.
"""

from __future__ import annotations

import codecs
import os
import sys
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
