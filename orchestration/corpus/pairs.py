"""Prompts and answers as documents that know which of their bytes are answers.

While it is read, compared and split, a pair is one text like any other; only a byte that no UTF-8 holds stands where
what is given ends and an answer begins, and where an answer ends and what is given goes on. What stands after an odd
number of such marks is an answer, and the token that ends the document is of the part that it follows. Each part is
tokenised alone, so a prompt has the tokens that it has when a model is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestration.console.foreign import shown
from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.places import BadRecord

MARK = b"\xff"

_ADVICE = "mend the record, or leave such out with --on-bad-record skip"


@dataclass(frozen=True)
class Pairs:
    """Where a record has its answer. ``answer`` is the field (or the path of one) beside the prompt's, which
    ``separator`` follows; None for conversations, whose answers are what the assistant says."""

    answer: str | None = None
    separator: str = "\n"

    def text(self, prompt: Any, answer: Any, where: str, fields: tuple[str, ...], chat: ChatTemplate | None) -> bytes:
        """The document of a record: its ``fields``' values, or of a conversation its messages in ``prompt``. Raises
        BadRecord."""
        if self.answer is None:
            assert chat is not None, "conversations are rendered by a template"
            return marked(chat.turns(prompt, where))
        asked, said = (
            _text(value, where, field, name)
            for value, field, name in zip((prompt, answer), fields, ("prompt", "answer"), strict=True)
        )
        if chat is None:
            return marked([(asked + self.separator, False), (said, True)])
        return marked(chat.turns([{"role": "user", "content": asked}, {"role": "assistant", "content": said}], where))


def _text(value: Any, where: str, field: str, name: str) -> str:
    if value is None:
        raise BadRecord(f"{where} has null for its {name} {field!r}", _ADVICE, f"{name}_field")
    if isinstance(value, bytes):  # of tables, which are not decoded before it is known which record is meant
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise BadRecord(f"{where}: {field!r} is not UTF-8 at byte {error.start}", _ADVICE) from error
    if not isinstance(value, str):
        raise BadRecord(
            f"{where}: {field!r} is of type {type(value).__name__}, not text",
            "write it as a string in quotes, or name the field that holds the text",
            f"{name}_field",
        )
    if not value.strip():
        raise BadRecord(f"{where} has an empty {name} {field!r}", _ADVICE, f"{name}_field")
    return value


def marked(parts: Iterable[tuple[str, bool]]) -> bytes:
    """The parts, each with whether it is an answer, as one document with its marks."""
    found: list[bytes] = [b""]
    for text, answer in parts:
        if (len(found) % 2 == 0) != answer:
            found.append(b"")
        # JSON can spell half of a surrogate pair, which is no character and has no UTF-8.
        found[-1] += text.encode("utf-8", errors="replace")
    return MARK.join(found)


def parts_of(document: bytes) -> list[tuple[bytes, bool]]:
    """The parts of a document in order, each with whether it is an answer; those of no bytes too."""
    return [(part, at % 2 == 1) for at, part in enumerate(document.split(MARK))]


def plain(document: bytes) -> bytes:
    """The document's text."""
    return document.replace(MARK, b"")


def named_fields(record: Mapping[str, Any]) -> str:
    """The names of a record's fields, as an error shows them."""
    return ", ".join(map(shown, sorted(record)[:20])) or "nothing"
