"""Shards in the store: write one once, read one only if it is exactly what its manifest says."""

from __future__ import annotations

from typing import Any

from pyarrow import ArrowException, Table
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from datalake.canonical import sha256_hex
from datalake.clock import System
from datalake.errors import (
    CorruptObjectError,
    CorruptShardError,
    MissingShardError,
    NotFoundError,
    ObjectTooLargeError,
    ShardConflictError,
)
from datalake.events import log_event
from datalake.names import check_key
from datalake.shards.blocks import footer_size
from datalake.shards.shard_format import check_table, decode_shard, encode_shard, footer_matches
from datalake.shards.source import Source, shard_key
from datalake.shards.tokens import token_dtype
from datalake.store.interface import Store
from datalake.store.ranges import get_in_parts

MOST_BYTES = 4 << 30  # S3 takes 5 GiB in one request


# Slots and no model: a manifest of a million shards opens in half the time and memory.
@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ShardRef:
    """How a manifest names a shard: its key, first sequence id, rows, size in bytes and SHA-256 of the file; and of the
    footer, if the format is one whose footer names blocks."""

    key: str
    first: int = Field(ge=0)
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    footer_bytes: int | None = Field(default=None, ge=12)
    footer_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


def check_shard_size(rows: int, shard_sequences: int, seq_len: int, vocab_size: int) -> None:
    """ObjectTooLargeError if shards of a dataset of ``rows`` sequences would be larger than one object may be."""
    row_bytes = token_dtype(vocab_size).itemsize * seq_len
    size = row_bytes * min(rows, shard_sequences)
    if size > MOST_BYTES:
        raise ObjectTooLargeError(
            f"shard_sequences = {shard_sequences}: shards of {min(rows, shard_sequences)} sequences of {seq_len} "
            f"tokens have {size} bytes, and an object at most {MOST_BYTES}; give at most {MOST_BYTES // row_bytes}"
        )


def write_shard(store: Store, source: Source, table: Table, first: int) -> ShardRef:
    """Write the shard of ``source`` that starts at ``first``, if absent, and say what is there.

    An object already there is accepted if it is the same shard with the same rows: then its own bytes are what the
    reference names (another version of pyarrow may have laid them out otherwise). Anything else, such as a file cut
    short, raises ShardConflictError; ``repair_shard`` replaces it.
    """
    key = shard_key(source, first, table.num_rows)
    data = encode_shard(source, table, first)
    try:
        created = store.put_if_absent(key, data)
    except ObjectTooLargeError as error:
        raise ObjectTooLargeError(f"{error}: give fewer shard_sequences than {source.shard_sequences}") from error
    if created:
        log_event("shard_written", shard=key, rows=table.num_rows, bytes=len(data))
        return _ref(source, key, first, table.num_rows, data)
    found = store.get(key)
    if found == data or ((valid := _valid_table(source, first, found)) and valid.num_rows == table.num_rows):
        return _ref(source, key, first, table.num_rows, found)
    raise ShardConflictError(
        f"shard {key} is there with other bytes (expected {len(data)} bytes, SHA-256 {sha256_hex(data)}; found "
        f"{len(found)}, {sha256_hex(found)}): it is damaged; move the object away and run again to write it anew"
    )


def repair_shard(store: Store, source: Source, table: Table, first: int, system: System) -> ShardRef:
    """Write the shard even if a damaged object holds its key; the damaged bytes are kept under ``quarantine/``."""
    check_table(source, table, first)  # so that a conflict below can only be about what the store holds
    try:
        return write_shard(store, source, table, first)
    except ShardConflictError:
        key = shard_key(source, first, table.num_rows)
        data = encode_shard(source, table, first)
        put_back(store, key, data, system)
        return _ref(source, key, first, table.num_rows, data)


def put_back(store: Store, key: str, data: bytes, system: System) -> tuple[bool, str | None]:
    """Make ``data`` the shard at ``key``, and read it back. Returns whether it had to be written, and where the damaged
    bytes that held the key are kept, if any did.

    The one place where a key's bytes change, allowed because its content is a pure function of its name: those who race
    for one shard write the same bytes. Raises CorruptObjectError if the store does not keep them.
    """
    written, quarantine = store.put_if_absent(key, data), None
    if not written:
        try:
            damaged = store.get(key)
        except NotFoundError:  # removed by another healer or by hand, just now
            damaged = b""
        if damaged != data:
            quarantine = f"quarantine/{system.nonce()}/{key}"
            store.put_if_absent(quarantine, damaged)
            store.replace(key, data)
            written = True
    if store.get(key) != data:
        raise CorruptObjectError(
            f"object {key} reads back other than it was written: the store is losing data; run `morphogen probe`"
        )
    return written, quarantine


def find_shard(store: Store, source: Source, first: int, rows: int) -> tuple[ShardRef, Table] | None:
    """The shard and its table if it is in the store and intact by its own footer, else None (write it, then)."""
    key = shard_key(source, first, rows)
    try:
        data = store.get(key)
    except NotFoundError:
        return None
    table = _valid_table(source, first, data)
    return None if table is None or table.num_rows != rows else (_ref(source, key, first, rows, data), table)


def fetch_shard(store: Store, ref: ShardRef) -> bytes:
    """The shard file's bytes, exactly as the manifest names them. Raises MissingShardError or CorruptShardError."""
    check_key(ref.key)
    what_to_do = "run `morphogen data heal` to restore what can be computed again"
    try:
        data = get_in_parts(store, ref.key, ref.bytes)
        if (found := sha256_hex(data)) != ref.sha256:
            data = store.get(ref.key)  # a repair may have come between the parts, or a bit flipped on the way
            found = sha256_hex(data)
    except NotFoundError as error:
        raise MissingShardError(
            f"shard {ref.key} is missing from lake {store.uri} (sequences {ref.first} to {ref.first + ref.rows - 1}): "
            f"{what_to_do}",
            key=ref.key,
            expected=ref.sha256,
        ) from error
    if found != ref.sha256:
        raise CorruptShardError(
            f"shard {ref.key} is corrupt: expected {ref.bytes} bytes with SHA-256 {ref.sha256}, found {len(data)} with "
            f"{found}: {what_to_do}",
            key=ref.key,
            expected=ref.sha256,
            found=found,
        )
    return data


def read_shard(store: Store, ref: ShardRef, verify: bool = True) -> Table:
    """The shard's table. Raises MissingShardError or CorruptShardError.

    ``verify=False`` skips the file's SHA-256, for a caller that has just checked these bytes itself.
    """
    data = fetch_shard(store, ref) if verify else store.get(ref.key)
    try:
        table = decode_shard(data)
    except (ArrowException, OSError) as error:
        raise CorruptShardError(
            f"shard {ref.key} has the expected digest but is not Parquet ({error}): its manifest is wrong", key=ref.key
        ) from error
    if table.num_rows != ref.rows:
        raise CorruptShardError(
            f"shard {ref.key} has {table.num_rows} rows, its manifest says {ref.rows}: the manifest is wrong",
            key=ref.key,
        )
    return table


def fetch_footer(store: Store, ref: ShardRef) -> bytes:
    """The footer of a shard whose reference names it, and nothing else of the file. Raises CorruptShardError, and
    NotFoundError."""
    assert ref.footer_bytes is not None, "a manifest of this format names footers"
    assert ref.footer_sha256 is not None, "with their digests"
    footer = store.get_range(ref.key, ref.bytes - ref.footer_bytes, ref.footer_bytes)
    if (found := sha256_hex(footer)) != ref.footer_sha256:
        raise CorruptShardError(
            f"shard {ref.key} has another footer: expected SHA-256 {ref.footer_sha256}, found {found}",
            key=ref.key,
            expected=ref.footer_sha256,
            found=found,
        )
    return footer


def _ref(source: Source, key: str, first: int, rows: int, data: bytes) -> ShardRef:
    footer: dict[str, Any] = {}
    if source.format == 2:
        size = footer_size(data)
        footer = {"footer_bytes": size, "footer_sha256": sha256_hex(data[-size:])}
    return ShardRef(key=key, first=first, rows=rows, bytes=len(data), sha256=sha256_hex(data), **footer)


def _valid_table(source: Source, first: int, data: bytes) -> Table | None:
    """The table of a file that is the shard of ``source`` at ``first``, intact; None if it is not."""
    try:
        table = decode_shard(data)
        return table if footer_matches(source, first, table) else None
    except (ArrowException, OSError, AttributeError, IndexError):  # what damaged bytes make Arrow and us raise
        return None
