"""The digest of a dataset's tokens, put together from digests of its shards without reading them again.

It is the root of the Merkle tree over the rows as RFC 6962 (section 2.1) defines it: a leaf is one row's token bytes,
and the left part of every inner node holds the largest power of two of its rows. So the digest of any run of rows is a
few nodes, runs that touch can be joined, and how a dataset was cut into shards does not matter.

Versions of before name the SHA-256 over all token bytes in order, which only one reader after another can make. They
keep it: what a manifest says tells which of the two it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pyarrow import Table

from datalake.errors import ManifestError
from datalake.shards.shard_format import token_bytes

TREE = "tree-sha256:"
"""What the digest of a tree begins with."""
PATTERN = f"^({TREE})?[0-9a-f]{{64}}$"

_LEAF, _INNER = hashlib.sha256(b"\0"), hashlib.sha256(b"\1")  # RFC 6962: no row can pass for a node
_Node = tuple[int, int, bytes]  # its height, its place among those of this height, its digest


@dataclass(frozen=True)
class ContentPart:
    """The digests of rows ``first`` … ``first + rows - 1``: the largest whole subtrees of them, in order."""

    first: int
    rows: int
    nodes: tuple[_Node, ...]


class ContentDigest(Protocol):
    """A digest of rows that come in order."""

    def update(self, rows: bytes | memoryview) -> None:
        """Take the token bytes of the next whole rows."""
        ...

    def value(self) -> str:
        """What a manifest of all these rows says."""
        ...


class ContentTree:
    """The tree's nodes over rows of ``row_bytes`` each, from row ``first`` on."""

    def __init__(self, row_bytes: int, first: int = 0) -> None:
        self._row_bytes = row_bytes
        self._first = self._end = first
        self._nodes: list[_Node] = []

    def update(self, rows: bytes | memoryview) -> None:
        """Take the token bytes of the next whole rows."""
        data = memoryview(rows).cast("B")
        for start in range(0, len(data), self._row_bytes):
            leaf = _LEAF.copy()
            leaf.update(data[start : start + self._row_bytes])
            _push(self._nodes, (0, self._end, leaf.digest()))
            self._end += 1

    def part(self) -> ContentPart:
        """The rows so far."""
        return ContentPart(self._first, self._end - self._first, tuple(self._nodes))

    def value(self) -> str:
        """The digest of a dataset that is these rows and no others."""
        return combine([self.part()])


def part_of(table: Table, first: int) -> ContentPart:
    """The digests of a shard's table that starts at row ``first``."""
    tree = ContentTree(table.schema.field("tokens").type.byte_width, first)
    tree.update(token_bytes(table))
    return tree.part()


def combine(parts: Iterable[ContentPart]) -> str:
    """The digest of the dataset that ``parts`` (any order) make. Raises ManifestError if they leave gaps."""
    nodes: list[_Node] = []
    end = 0
    for part in sorted(parts, key=lambda part: part.first):
        if part.first != end:
            raise ManifestError(f"digests of rows begin again at row {part.first}, expected {end}")
        for node in part.nodes:
            _push(nodes, node)
        end += part.rows
    if not nodes:
        raise ManifestError("digests of no rows make no digest of a dataset")
    digest = nodes[-1][2]
    for _, _, left in reversed(nodes[:-1]):
        digest = _joined(left, digest)
    return TREE + digest.hex()


class _OneAfterAnother:
    """The SHA-256 over all token bytes, as manifests of before name it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, rows: bytes | memoryview) -> None:
        self._digest.update(rows)

    def value(self) -> str:
        return self._digest.hexdigest()


def digest_like(expected: str | None, row_bytes: int) -> ContentDigest:
    """An empty digest of the kind that ``expected``, a manifest's, is; None: of the kind that is made now."""
    return _OneAfterAnother() if expected is not None and not expected.startswith(TREE) else ContentTree(row_bytes)


def _push(nodes: list[_Node], node: _Node) -> None:
    """Append the next node, and join it with those before it that it completes a larger subtree with."""
    height, place, digest = node
    while place & 1 and nodes and nodes[-1][0] == height:
        digest = _joined(nodes.pop()[2], digest)
        height, place = height + 1, place >> 1
    nodes.append((height, place, digest))


def _joined(left: bytes, right: bytes) -> bytes:
    inner = _INNER.copy()
    inner.update(left + right)
    return inner.digest()
