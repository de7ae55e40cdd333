"""Whether the tokens of imported documents show where each ends, as attention within documents needs to know."""

from __future__ import annotations

import numpy as np


class DocumentEnds:
    """Looks at documents as they are imported, piece after piece, for the token ``end`` (None: there is none known).

    ``unmarked`` says that a document ended without it, ``held_within`` that one went on after it. Files that do not say
    where documents end show neither.
    """

    def __init__(self, end: int | None) -> None:
        self._end = end
        self._documents = False  # whether the files say where documents end
        self._last = False  # whether the last token seen was the end
        self._going_on = False  # whether a document goes on after the last token seen
        self.unmarked = False
        self._within = False

    @property
    def held_within(self) -> bool:
        """Whether a document went on after the token; files without documents say nothing of that."""
        return self._within and self._documents

    def see(self, tokens: np.ndarray, ends: np.ndarray) -> None:
        """The next tokens [n], and where in them documents end: rising, each from 0 to n."""
        if self._end is None:
            return
        self._documents |= bool(len(ends))
        marks = np.flatnonzero(tokens == self._end) + 1
        ended = np.unique(ends)
        if len(ended) and ended[0] == 0:
            self.unmarked |= self._going_on and not self._last
            ended = ended[1:]
        elif len(tokens):
            self._within |= self._last and self._going_on
        self.unmarked |= bool(len(np.setdiff1d(ended, marks)))
        inner = np.setdiff1d(marks, ended)
        self._within |= bool((inner < len(tokens)).any())
        if len(tokens):
            self._last = bool(len(marks)) and int(marks[-1]) == len(tokens)
            self._going_on = not len(ends) or int(ends[-1]) < len(tokens)
        elif len(ends):
            self._going_on = False
