"""What adding a corpus came to: the versions made, and an account of what was read and left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from datalake import DatasetVersion
from orchestration.errors import CorpusError


@dataclass(frozen=True)
class CorpusResult:
    """Both versions and an account of every document: those kept, and how many were left out for each reason, with the
    first names. ``heldout`` is None where nothing is held out.

    ``files`` counts those that gave a document, ``bytes`` is the documents' UTF-8 text. ``answers`` and ``padding`` are
    tokens of each split of pairs.
    """

    train: DatasetVersion
    heldout: DatasetVersion | None
    files: int
    documents: int
    bytes: int
    duplicates: int
    undecodable: int
    empty: int
    left_out: dict[str, int]
    first_left_out: dict[str, list[str]]
    split: str
    records_as_text: list[str]
    compressed: dict[str, int]
    tokens: dict[str, int]
    tokens_dropped: dict[str, int]
    vocab_size: int
    tokenizer_digest: str | None
    evaluation_too_short: int = 0
    texts_beside_records: tuple[str, ...] = ()
    answers: dict[str, int] = field(default_factory=dict)
    padding: dict[str, int] = field(default_factory=dict)

    def both(self) -> tuple[DatasetVersion, DatasetVersion]:
        """The train and the held-out version; CorpusError where nothing was held out."""
        if self.heldout is None:
            raise CorpusError(f"heldout_fraction: nothing of {self.train.ref} is held out; hold some of it out")
        return self.train, self.heldout

    def notes(self) -> list[str]:
        """One sentence on each thing that was left out or decided; empty if nothing was."""
        said = [
            f"{count:,} {reason} (first: {self.first_left_out[reason][0]})" for reason, count in self.left_out.items()
        ]
        if self.compressed:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in self.compressed.items())
            said.append(f"compressed files, read as what they hold: {kinds}")
        if self.records_as_text:
            said.append(
                f"{len(self.records_as_text):,} JSON or CSV files without the text column are read as text "
                f"(first: {self.records_as_text[0]}); name the column, or leave them out"
            )
        if self.texts_beside_records:
            said.append(
                f"{len(self.texts_beside_records):,} files without records are a document each, beside files of "
                f"records (first: {self.texts_beside_records[0]}); a pattern leaves them out"
            )
        if self.split == "position":
            said.append("too few documents to hold some out: the last share of each is held out, the rest trained on")
        if self.evaluation_too_short:
            said.append(f"{self.evaluation_too_short:,} texts of the evaluation set are too short to be looked for")
        for split, answers in self.answers.items():
            said.append(
                f"of the tokens of {split} {answers / self.tokens[split]:.1%} are answers, "
                f"{self.padding[split] / self.tokens[split]:.1%} padding behind whole pairs"
            )
        for split, dropped in self.tokens_dropped.items():
            if dropped:
                share = dropped / (dropped + self.tokens[split])
                said.append(f"{dropped:,} tokens of {split} ({share:.2%}) lost: they do not fit the rows")
        return said
