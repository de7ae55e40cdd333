"""Documents that are nearly another one, or share text with what a model is evaluated on: found, counted, left out.

Both go by runs of words in lower case: a letter of a script without spaces is a word. Near-duplicates are those whose
sets of five-word runs have at least the given share in common (Jaccard), estimated by MinHash (Broder 1997) through
datasketch; of several the first is kept. A document is contaminated where one run of ``words`` words (13 by default, as
in Brown et al. 2020, arXiv 2005.14165, appendix C) stands in the evaluation set, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestration.corpus.options import ReadOptions
from orchestration.corpus.places import BadRecord, Place, find_files, named
from orchestration.corpus.records import kind_of, records, text_of
from orchestration.errors import CorpusError

CONTAMINATED = "documents dropped, they share text with the evaluation set"

_SHINGLE = 5  # words
PERMUTATIONS = 128
_SCHEME = "affine32"
SIGNATURE = 4 * PERMUTATIONS  # bytes
_AT_ONCE = 4096  # runs: their permutations take 1 KiB each

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_SPACELESS}]|[^\\W{_SPACELESS}]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class ScreenOptions:
    """What to leave out: near-duplicates from this Jaccard similarity on, and documents that share a run of ``words``
    words with the files or URLs ``against``, whose records hold text in ``columns``."""

    near_duplicates: float | None = None
    against: Sequence[Place] = ()
    columns: Sequence[str] = ("text",)
    words: int = 13

    def check(self) -> None:
        """Raise CorpusError for numbers that can be meant nowhere."""
        if self.near_duplicates is not None and not 0.1 <= self.near_duplicates <= 1:
            raise CorpusError(f"near_duplicates: {self.near_duplicates} is not between 0.1 and 1; 0.8 is usual")
        if self.words < 2:
            raise CorpusError(f"words: {self.words} in common are no sign of anything; use 2 or more, 13 is usual")


@dataclass(frozen=True)
class Screen:
    """What a file's survey needs: whether signatures are wanted, and the evaluation set's runs, uint64 in order."""

    signatures: bool
    runs: NDArray[np.uint64]
    words: int
    too_short: int = 0  # texts of the evaluation set that are shorter than a run

    @property
    def wanted(self) -> bool:
        return self.signatures or len(self.runs) > 0

    def document(self) -> Screened:
        """One document, to be fed its text."""
        return Screened(self)


class Screened:
    """One document's runs of words, as its text comes in pieces."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._held: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._values = minhash() if screen.signatures else None
        self._seen = 0
        self.contaminated = False

    def feed(self, text: bytes) -> None:
        """The next piece of the document's UTF-8 text."""
        screen = self._screen
        words = np.concatenate([self._held, _hashed(text.decode())])
        fresh = len(words) - len(self._held)
        if len(screen.runs) and not self.contaminated and len(words) >= screen.words:
            self.contaminated = bool(np.isin(runs_of(words, screen.words), screen.runs, kind="sort").any())
        if self._values is not None and fresh:
            # Those that end in this piece; what is shorter than a run is one run.
            first = max(0, len(words) - fresh - _SHINGLE + 1)
            self._add(runs_of(words[first:], min(_SHINGLE, len(words))) if self._seen + fresh >= _SHINGLE else None)
        self._seen += fresh
        self._held = words[-(max(screen.words, _SHINGLE) - 1) :]

    def signature(self) -> bytes:
        """MinHash values, little-endian uint32, once the whole text has been fed."""
        if self._values is None:
            return b""
        if 0 < self._seen < _SHINGLE:
            self._add(runs_of(self._held, self._seen))
        return self._values.hashvalues.astype("<u4").tobytes()

    def _add(self, runs: NDArray[np.uint64] | None) -> None:
        if runs is None or self._values is None:
            return
        short = (runs >> np.uint64(32)).tolist()
        for start in range(0, len(short), _AT_ONCE):
            self._values.update_batch(short[start : start + _AT_ONCE])


def runs_of(words_N: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """A hash of each run of ``length`` words: uint64 [N - length + 1]."""
    count = len(words_N) - length + 1
    found = np.zeros(count, dtype=np.uint64)
    for at in range(length):
        found = (found ^ words_N[at : at + count]) * _MULTIPLIER
        found ^= found >> np.uint64(29)
    return found


def _hashed(text: str) -> NDArray[np.uint64]:
    return np.array([_word_hash(word) for word in _WORD.findall(text.lower())], dtype=np.uint64)


@lru_cache(maxsize=1 << 17)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def open_screen(options: ScreenOptions, reading: ReadOptions) -> Screen:
    """Read the evaluation set. Raises CorpusError for one that cannot be read, or holds nothing to look for."""
    options.check()
    if (options.near_duplicates is not None or options.against) and reading.ids:
        raise CorpusError("ids: token ids are no words that could be compared; add text, or leave out the comparison")
    found: list[NDArray[np.uint64]] = []
    short = 0
    for words in _texts(options, reading) if options.against else ():
        if len(words) < options.words:
            short += 1
        else:
            found.append(np.unique(runs_of(words, options.words)))
    if options.against and not found:
        raise CorpusError(
            f"decontaminate: nothing in {', '.join(named(place) for place in options.against)} has {options.words} "
            f"words in a row under {', '.join(map(repr, options.columns))} ({short} shorter texts); name the fields "
            "that hold its texts, or ask for fewer words"
        )
    runs = np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint64)
    return Screen(options.near_duplicates is not None, runs, options.words, short)


def _texts(options: ScreenOptions, reading: ReadOptions) -> Iterator[NDArray[np.uint64]]:
    """The words of each text of the evaluation set."""
    bare = replace(reading, format="auto", chat=None, ids=False, pairs=None)
    for place in find_files(list(options.against)).values():
        kinds = {column: kind_of(place, replace(bare, column=column))[0] for column in options.columns}
        if set(kinds.values()) == {"text"}:
            pieces = [_hashed(piece.decode()) for _, piece in _records(place, "text", bare)]
            yield np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint64)
            continue
        for column, kind in kinds.items():
            chosen = replace(bare, column=column)
            for number, raw in _records(place, kind, chosen):
                try:
                    yield _hashed(text_of(kind, number, raw, chosen).decode())
                except BadRecord as error:
                    raise error.of(place) from error


def _records(place: Place, kind: Any, options: ReadOptions) -> Iterator[tuple[int, Any]]:
    try:
        yield from records(place, kind, options)
    except BadRecord as error:
        raise error.of(place) from error


@lru_cache(maxsize=1)
def _permutations() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, scheme=_SCHEME).permutations


def minhash(signature: bytes | None = None) -> Any:
    """A MinHash of integers, empty or with the values of a signature."""
    from datasketch import MinHash

    values = None if signature is None else np.frombuffer(signature, dtype="<u4")
    made = {"hashfunc": int, "hashvalues": values, "permutations": _permutations(), "scheme": _SCHEME}
    return MinHash(num_perm=PERMUTATIONS, **made)
