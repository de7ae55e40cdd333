"""Which encoding a text that is not UTF-8 seems to be in, for a message: a guess is never acted on."""

from __future__ import annotations

import codecs

import charset_normalizer

from orchestration.corpus.places import Place, expanded
from orchestration.errors import CorpusError

_SAMPLE = 1 << 14
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
            sample = file.read(_SAMPLE)
    except (OSError, CorpusError):
        return ""
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return f"{encoding} by its byte order mark"
    if b"\0" in sample:
        pairs = len(sample) // 2
        for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
            if zeros.count(0) > 0.4 * pairs:
                return f"perhaps {encoding}"
        return "binary"
    found = charset_normalizer.from_bytes(sample).best()
    return f"perhaps {found.encoding}" if found else ""
