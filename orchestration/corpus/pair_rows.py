"""Tokens of pairs on their way into rows: each carries what it is for, above the bits of its id, until it is in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from datalake.shards.roles import ANSWER, COLUMN, GIVEN, PADDING, role_column
from datalake.shards.tokens import token_dtype
from orchestration.corpus.documents import Part
from orchestration.corpus.packing import Packing
from orchestration.corpus.pairs import Pairs, parts_of
from orchestration.corpus.places import named
from orchestration.corpus.tokenizers import Tokens
from orchestration.errors import CorpusError

TOO_LONG = "pairs left out, longer than a row"

DTYPE = np.dtype(np.uint64)
_ROLE = np.uint64(32)


def packing_of(pairs: Pairs | None, packing: Packing, split_by: str) -> Packing:
    """How documents are laid into rows, given what was asked for. CorpusError where pairs would be cut."""
    if pairs is None:
        if packing == "whole":
            raise CorpusError("packing: 'whole' pads rows, which only pairs can say; use 'concat' or 'best-fit'")
        return packing
    if split_by == "position":
        raise CorpusError(
            "split_by: 'position' would cut pairs in two; use 'name' or 'content', or give --heldout files"
        )
    return "whole"


def _with_role(tokens: Tokens, role: int) -> Tokens:
    return tokens.astype(DTYPE) | (np.uint64(role) << _ROLE)


def encoded_pairs(
    group: Sequence[Part],
    texts: Sequence[bytes],
    encode: Callable[[Sequence[Part], Sequence[bytes]], list[Tokens]],
    end_of_text: int,
    longest: int | None,
) -> list[Tokens]:
    """Each document's tokens with their roles, the end of text included. ``encode`` gives the tokens of texts, each a
    part of a document on its own. CorpusError for a document of more than ``longest`` tokens (None: any length)."""
    parts: list[Part] = []
    pieces: list[bytes] = []
    roles: list[list[int]] = []
    for part, text in zip(group, texts, strict=True):
        split = parts_of(text)
        kept = [(piece, ANSWER if answer else GIVEN) for piece, answer in split if piece]
        parts += [replace(part, begins=part.begins and not at) for at in range(len(kept))]
        pieces += [piece for piece, _ in kept]
        roles.append([*(role for _, role in kept), ANSWER if split[-1][1] else GIVEN])
    tokens = iter(encode(parts, pieces))
    end = np.array([end_of_text], dtype=DTYPE)
    found = []
    for part, (*inner, last) in zip(group, roles, strict=True):
        document = np.concatenate([*(_with_role(next(tokens), role) for role in inner), _with_role(end, last)])
        if longest is not None and len(document) > longest:
            raise CorpusError(
                f"seq_len: {named(part.place)} record {part.number + 1} is a pair of {len(document)} tokens, and a row "
                f"of {longest + 1} holds {longest}; raise --seq-len, or leave such pairs out with --on-bad-record skip"
            )
        found.append(document)
    return found


def with_roles(table: pa.Table, roles_NT: np.ndarray) -> pa.Table:
    """A shard's table with its column of roles."""
    column = role_column(roles_NT)
    return table.append_column(pa.field(COLUMN, column.type, nullable=False), column)


def tokens_and_roles(rows_NT: Tokens, end_of_text: int, vocab_size: int) -> tuple[Tokens, np.ndarray]:
    """Rows of tokens with their roles as both: ``token_dtype`` and uint8 [N, seq_len]. The end of text that a row
    begins with is given; what it is padded with is padding."""
    roles_NT = (rows_NT >> _ROLE).astype(np.uint8)
    assert (rows_NT[:, 0] == end_of_text).all(), "a row of pairs begins as a document does"
    roles_NT[:, 0] = GIVEN
    return (rows_NT & np.uint64(0xFFFFFFFF)).astype(token_dtype(vocab_size)), roles_NT


def counts_of(roles_NT: np.ndarray) -> tuple[int, int]:
    """How many tokens are answers, and how many padding."""
    return int((roles_NT == ANSWER).sum()), int((roles_NT == PADDING).sum())
