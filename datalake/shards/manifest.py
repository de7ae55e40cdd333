"""The manifest: what a dataset version consists of, stored under its own digest.

It lists the version's shards; or, in format 2, it names none, and says only what a synthetic dataset's rows are a
function of: they are then computed where they are read. It holds no name and no time, so the same data has the same
manifest whoever commits it, and racing commits agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
from pyarrow import Table
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from datalake.canonical import canonical_json, digest_of, sha256_hex
from datalake.errors import CorruptObjectError, ManifestError
from datalake.shards.content import PATTERN, combine, part_of
from datalake.shards.shards import ShardRef, read_shard
from datalake.shards.source import Source
from datalake.shards.tokens import MAX_VOCABULARY, token_dtype
from datalake.store.interface import Store, ensure_content

Progress = Callable[[int, int], None]  # (shards done, shards in all)

_STORED_ONLY = ("text_bytes", "content_digest", "shards", "left_out")


class Manifest(BaseModel):
    """One dataset version's content. Row ``i`` of the dataset is sequence id ``i``, whatever the sharding.

    ``tokens`` = ``sequences`` * ``seq_len``; ``text_bytes`` is the UTF-8 size of what a text dataset represents;
    ``content_digest`` is of all tokens, whatever the sharding (``datalake.shards.content``). ``left_out`` counts the
    documents and files that are not in it, by reason; it is stored only where something was lost. ``format`` 2 has
    neither shards nor a content digest: it is a computed dataset, or one that is still to be made, and its source's
    ``shard_sequences`` say how it would be cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1, 2] = 1
    kind: Literal["synthetic", "text"]
    source: Source
    seq_len: int = Field(ge=1)
    vocab_size: int = Field(ge=1, le=MAX_VOCABULARY)
    sequences: int = Field(ge=1)
    tokens: int = Field(ge=1)
    text_bytes: int | None = None
    content_digest: str | None = Field(default=None, pattern=PATTERN)
    shards: tuple[ShardRef, ...] = ()
    left_out: dict[str, int] | None = None

    @classmethod
    def build(
        cls,
        source: Source,
        shards: Iterable[ShardRef],
        *,
        seq_len: int,
        vocab_size: int,
        content_digest: str,
        text_bytes: int | None = None,
    ) -> Manifest:
        """The manifest of ``shards`` (any order), with the sums filled in. Raises ManifestError if they leave gaps."""
        ordered = tuple(sorted(shards, key=lambda ref: ref.first))
        return cls._of(
            source,
            "these shards make no manifest",
            sequences=sum(ref.rows for ref in ordered),
            seq_len=seq_len,
            vocab_size=vocab_size,
            text_bytes=text_bytes,
            content_digest=content_digest,
            shards=ordered,
        )

    @classmethod
    def computed(cls, source: Source, *, sequences: int, seq_len: int, vocab_size: int) -> Manifest:
        """The manifest of rows that are not stored. Raises ManifestError if they cannot be computed."""
        problem = "this makes no computed dataset"
        return cls._of(source, problem, format=2, sequences=sequences, seq_len=seq_len, vocab_size=vocab_size)

    @classmethod
    def _of(cls, source: Source, problem: str, *, sequences: int, seq_len: int, **fields: Any) -> Manifest:
        """The manifest of ``source`` with these fields and the number of tokens. ManifestError, beginning with
        ``problem``, if they do not fit each other."""
        tokens = sequences * seq_len
        try:
            return cls(kind=source.kind, source=source, sequences=sequences, seq_len=seq_len, tokens=tokens, **fields)
        except ValidationError as error:
            raise ManifestError(f"{problem}: {_one_line(error)}") from error

    def stored(self, shards: Iterable[ShardRef], content_digest: str) -> Manifest:
        """The manifest of the same rows now that their shards are there. Raises ManifestError if they leave gaps."""
        sizes = {"seq_len": self.seq_len, "vocab_size": self.vocab_size}
        return type(self).build(self.source, shards, content_digest=content_digest, **sizes)

    @property
    def is_computed(self) -> bool:
        """Whether the rows are computed where they are read, and not stored."""
        return self.format == 2

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        if self.kind != self.source.kind:
            raise ValueError(f"kind {self.kind} of a {self.source.kind} source")
        if self.is_computed:
            return self._names_no_bytes()
        if not self.shards or self.content_digest is None:
            raise ValueError("format 1 has shards and a content digest")
        named = self.source.format == 2
        if other := next((ref for ref in self.shards if (ref.footer_sha256 is not None) != named), None):
            raise ValueError(
                f"shard {other.key} names {'no' if named else 'a'} footer, its source has format {1 + named}"
            )
        expected = 0
        for ref in self.shards:
            if ref.first != expected:
                raise ValueError(f"shard {ref.key} starts at sequence {ref.first}, expected {expected}")
            expected += ref.rows
        if (self.sequences, self.tokens) != (expected, expected * self.seq_len):
            raise ValueError(
                f"{self.sequences} sequences and {self.tokens} tokens, but the shards hold {expected} rows"
            )
        return self

    def _names_no_bytes(self) -> Manifest:
        if self.kind != "synthetic":
            raise ValueError(f"a source of kind {self.kind!r} is not computed: only synthetic data can be")
        if any(getattr(self, field) for field in _STORED_ONLY):
            raise ValueError(f"format 2 is computed: it has none of {', '.join(_STORED_ONLY)}")
        if self.tokens != self.sequences * self.seq_len:
            raise ValueError(f"{self.tokens} tokens, but {self.sequences} sequences of {self.seq_len}")
        return self

    @cached_property
    def canonical(self) -> bytes:
        """Canonical JSON, the bytes that are stored."""
        # Without what is None by default since it came later: manifests from before keep their digest.
        if self.is_computed:
            return canonical_json(self.model_dump(mode="json", exclude=set(_STORED_ONLY)))
        left: dict[str, Any] = {"left_out": True} if self.left_out is None else {}
        if self.source.format == 1:
            left["shards"] = {"__all__": {"footer_bytes", "footer_sha256"}}
        return canonical_json(self.model_dump(mode="json", exclude=left))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``canonical``."""
        return sha256_hex(self.canonical)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of what fixes the rows: of synthetic data the same whether they are stored or not."""
        if self.kind == "text":
            return self.digest
        return digest_of({"data": self.source.rows_digest, "sequences": self.sequences})

    @property
    def token_dtype(self) -> np.dtype:
        """What the shards hold a token as."""
        return token_dtype(self.vocab_size)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's tokens."""
        return self.seq_len * self.token_dtype.itemsize

    @property
    def key(self) -> str:
        """``manifests/<digest>.json``."""
        return f"manifests/{self.digest}.json"


def save_manifest(store: Store, manifest: Manifest) -> None:
    """Store a manifest under its digest; one that is there already is fine."""
    ensure_content(store, manifest.key, manifest.canonical, CorruptObjectError)


def load_manifest(store: Store, digest: str) -> Manifest:
    """The manifest with this digest. Raises NotFoundError, or CorruptObjectError if the bytes do not match."""
    key = f"manifests/{digest}.json"
    data = store.get(key)
    if (found := sha256_hex(data)) != digest:
        raise CorruptObjectError(
            f"manifest {key} is corrupt (its digest is {found}): restore it from a copy of the lake"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObjectError(f"manifest {key} is not in a format this version reads: {_one_line(error)}") from error


def read_shards(store: Store, shards: Sequence[ShardRef], ahead: int = 4) -> Iterator[tuple[ShardRef, Table]]:
    """Verified tables in order, up to ``ahead`` of them fetched in the background."""
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        waiting = iter(shards)
        pending = [(ref, pool.submit(read_shard, store, ref)) for ref in islice(waiting, ahead)]
        while pending:
            ref, table = pending.pop(0)
            yield ref, table.result()
            pending += [(ref, pool.submit(read_shard, store, ref)) for ref in islice(waiting, 1)]


def content_digest(store: Store, shards: Sequence[ShardRef], progress: Progress | None = None) -> str:
    """The digest of all tokens of ``shards``, read back and each verified on the way.

    For whoever did not write them: who does has their ``part_of``, and ``combine`` reads nothing.
    """
    ordered = sorted(shards, key=lambda ref: ref.first)
    parts = []
    for ref, table in read_shards(store, ordered):
        parts.append(part_of(table, ref.first))
        if progress is not None:
            progress(len(parts), len(ordered))
    return combine(parts)


def _one_line(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors())
