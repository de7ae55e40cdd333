"""How files of tokens are to be read, and what reading them gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Piece = tuple[np.ndarray, np.ndarray]
"""Some tokens, uint32 [n], and where in them a document ends: int64, rising, each from 0 to n."""

ImportFormat = Literal["parquet", "arrow", "bin", "llmc", "megatron", "litdata"]


@dataclass(frozen=True)
class ImportOptions:
    """How to read the files.

    ``format`` is by default what a file's name and first bytes say; raw ``bin`` must be said. Of tables (``parquet``,
    ``arrow``) a row is a document, and ``column`` holds the tokens, by default "tokens" or else "input_ids": lists of
    integers, or little-endian binary of ``binary_bits`` a token (by default what the footer of an exported shard says,
    else what ``vocab_size`` needs, else 16). ``bin`` and ``llmc`` are one run of tokens; the documents of ``megatron``
    are those of its index, those of ``litdata`` the items of its chunks.

    Without ``seq_len`` every document must have the same length and becomes a row; with it, documents are laid end to
    end (``end_of_text``, if given, after each) and cut into rows of that many tokens, an incomplete last one left out.
    ``vocab_size`` defaults to the largest token plus one. ``token_bytes`` int [vocab_size] gives each token's UTF-8
    bytes; without it bits per byte cannot be computed on this dataset. ``tokenizer`` holds the fields by which the
    dataset's spec remembers what made the tokens, as for text that was tokenised here.
    """

    format: ImportFormat | None = None
    column: str | None = None
    binary_bits: Literal[16, 32] | None = None
    seq_len: int | None = None
    end_of_text: int | None = None
    vocab_size: int | None = None
    shard_sequences: int = 512
    token_bytes: np.ndarray | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
