"""A synthetic dataset before its bytes exist: all that fixes them, and so its identity, is known beforehand."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from datalake.canonical import digest_of
from datalake.shards.source import Source
from datalake.shards.tokens import MAX_VOCABULARY, token_dtype


class PlannedDataset(BaseModel):
    """What the manifest of a synthetic dataset will say, but for its shards' bytes and digests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source
    sequences: int = Field(ge=1)
    seq_len: int = Field(ge=1)
    vocab_size: int = Field(ge=1, le=MAX_VOCABULARY)

    @field_validator("source")
    @classmethod
    def _computable(cls, source: Source) -> Source:
        if source.kind != "synthetic":
            raise ValueError(f"a source of kind {source.kind!r} is not computed: only synthetic data can be planned")
        return source

    @property
    def kind(self) -> Literal["synthetic", "text"]:
        """As a manifest has it."""
        return self.source.kind

    @property
    def token_dtype(self) -> np.dtype:
        """What the shards will hold a token as."""
        return token_dtype(self.vocab_size)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over everything that the rows are a function of: equal identities, equal rows."""
        return digest_of({"data": self.source.data_digest, "sequences": self.sequences})
