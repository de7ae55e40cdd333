"""How the files of a corpus are to be read: what a caller may say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.pairs import Pairs

Kind = Literal["text", "lines", "values", "csv", "tsv", "parquet"]
FORMATS = ("auto", "text", "jsonl", "json", "csv", "tsv", "parquet")


@dataclass(frozen=True)
class ReadOptions:
    """How files are read. ``column`` is a field or the path of one (``a.b``); ``ids`` says that it holds token ids, of
    which ``end_of_text`` ends a document, ``chat`` that it holds a conversation to render. ``pairs`` says that
    answers are to be told from the rest; unless of conversations, ``column`` holds the prompt. ``encoding`` is of text
    files (UTF-8 by default)."""

    column: str = "text"
    format: str = "auto"
    encoding: str | None = None
    ids: bool = False
    end_of_text: int | None = None
    chat: ChatTemplate | None = None
    on_bad_record: str = "fail"
    pairs: Pairs | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields that a record must have."""
        return (self.column,) if self.pairs is None or self.pairs.answer is None else (self.column, self.pairs.answer)
