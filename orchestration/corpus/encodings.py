"""Which encoding a text that is not UTF-8 seems to be in, for a message: a guess is never acted on.

Texts of two and four bytes a character without a byte order mark are often valid UTF-8, half of it control characters:
they are told by these.
"""

from __future__ import annotations

import codecs

import charset_normalizer

from orchestration.corpus.places import Place, expanded
from orchestration.errors import CorpusError

SAMPLE = 1 << 14
# The controls that no text is made of: all but backspace, white space and escape.
_CONTROLS = bytes({*range(0x20)} - {8, *b"\t\n\v\f\r", 0x1B})
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def guessed_encoding(place: Place) -> str:
    """A clause such as "perhaps cp1252", or "" where nothing can be said."""
    try:
        with expanded(place) as file:
            sample = file.read(SAMPLE)
    except (OSError, CorpusError):
        return ""
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return f"{encoding} by its byte order mark"
    if wide := _wide_encoding(sample):
        return f"perhaps {wide}"
    if b"\0" in sample:
        return "binary"
    found = charset_normalizer.from_bytes(sample).best()
    return f"perhaps {found.encoding}" if found else ""


def is_no_text(sample: bytes) -> bool:
    """Whether a quarter of it or more are control characters, though it may be valid UTF-8."""
    return _controls(sample) * 4 > len(sample)


def _wide_encoding(sample: bytes) -> str | None:
    """The encoding of two or four bytes a character whose upper bytes are the control characters in the sample."""
    count = max(1, len(sample) // 4)
    first, second, third, fourth = (_controls(sample[at::4]) / count for at in range(4))
    if min(second, third, fourth) > 0.9 and first < 0.5:
        return "utf-32-le"
    if min(first, second, third) > 0.9 and fourth < 0.5:
        return "utf-32-be"
    even, odd = (first + third) / 2, (second + fourth) / 2
    if max(even, odd) < 0.4 or min(even, odd) > 0.4:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _controls(sample: bytes) -> int:
    return len(sample) - len(sample.translate(None, _CONTROLS))
