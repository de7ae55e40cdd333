"""What a dataset's sequences are computed or cut from, and where its shards therefore live.

All that fixes the bytes of a shard besides its index range goes into one digest, and the digest into the key: equal
sources share shards, whatever datasets name them, and unequal ones cannot touch each other's.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from datalake.canonical import digest_of
from datalake.errors import ManifestError

MOST_SHARD_SEQUENCES = 1_000_000


class Source(BaseModel):
    """The origin of a dataset's rows.

    ``spec`` is the generation spec (synthetic) or whatever fixes a text corpus (its content digest, tokenizer digest,
    split, …); ``spec_digest`` is the SHA-256 of its canonical JSON. ``seed`` and ``generator`` (its version) are set
    for synthetic sources only. ``shard_sequences`` is the number of rows in a full shard. ``format`` is that of the
    shards, of which 2 names blocks that can be read alone; both are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["synthetic", "text"]
    spec: dict[str, Any]
    spec_digest: str
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    generator: str | None = None
    shard_sequences: int = Field(ge=1, le=MOST_SHARD_SEQUENCES)
    format: Literal[1, 2] = 1

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        if (found := digest_of(self.spec)) != self.spec_digest:
            raise ValueError(f"spec_digest is {self.spec_digest}, but the spec's digest is {found}")
        synthetic = self.kind == "synthetic"
        if synthetic != (self.seed is not None) or synthetic != (self.generator is not None):
            raise ValueError("seed and generator belong to kind 'synthetic', and only to it")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a format of 1: what is stored of older shards keeps its digest."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if (name, value) != ("format", 1)}

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of the canonical JSON of all fields but ``format``: what fixes the rows, and how they are cut."""
        fields = self.model_dump(mode="json")
        return digest_of({name: value for name, value in fields.items() if name != "format"})

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the canonical JSON of all fields: the folder of this source's shards."""
        return digest_of(self.model_dump(mode="json"))


def shard_key(source: Source, first: int, rows: int) -> str:
    """``data/<data digest>/<first>.parquet`` for a full shard; a short one adds ``-r<rows>``.

    So when a dataset grows, the full shard is written beside the short tail, and no key ever changes its content.
    """
    short = "" if rows == source.shard_sequences else f"-r{rows}"
    return f"data/{source.data_digest}/{first:012d}{short}.parquet"


def shard_layout(sequences: int, shard_sequences: int) -> list[tuple[int, int]]:
    """``(first, rows)`` of every shard of ``sequences`` rows; all are full but perhaps the last."""
    if sequences < 1 or shard_sequences < 1:
        raise ManifestError(f"{sequences} sequences in shards of {shard_sequences}: both must be at least 1")
    return [(first, min(shard_sequences, sequences - first)) for first in range(0, sequences, shard_sequences)]
