"""The digest of a dataset's tokens: RFC 6962's tree over its rows, whatever they were cut into and whoever made it."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake.errors import ManifestError
from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from datalake.shards.content import TREE, ContentTree, combine, digest_like, part_of
from datalake.shards.manifest import Manifest
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_table, make_tokens


def root(rows: list[bytes]) -> bytes:
    """The tree as RFC 6962 defines it."""
    if len(rows) == 1:
        return hashlib.sha256(b"\0" + rows[0]).digest()
    left = 1 << (len(rows) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(rows[:left]) + root(rows[left:])).digest()


@given(rows=st.integers(1, 200), cuts=st.lists(st.integers(1, 199), max_size=6), seed=st.integers(0, 9))
def test_any_cut_gives_the_root_of_the_tree(rows: int, cuts: list[int], seed: int) -> None:
    tokens = make_tokens(seed, 0, rows).astype("<u2")
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    parts = []
    for start, stop in pairwise(edges):
        tree = ContentTree(2 * SEQ_LEN, start)
        tree.update(tokens[start:stop].tobytes())
        parts.append(tree.part())
    random.Random(seed).shuffle(parts)
    assert combine(parts) == TREE + root([row.tobytes() for row in tokens]).hex()


def test_a_part_of_a_table_is_small_and_gaps_are_refused() -> None:
    parts = [part_of(make_table(7, first, 32), first) for first in (0, 32, 64)]
    assert [len(part.nodes) for part in parts] == [1, 1, 1]
    with pytest.raises(ManifestError, match="begin again at row 64, expected 32"):
        combine([parts[0], parts[2]])
    with pytest.raises(ManifestError, match="no rows"):
        combine([])


def test_versions_of_before_keep_their_digest_and_are_found(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    plain = digest_like("0" * 64, 2 * SEQ_LEN)
    plain.update(make_tokens(7, 0, 100).astype("<u2").tobytes())
    assert plain.value() == hashlib.sha256(make_tokens(7, 0, 100).astype("<u2").tobytes()).hexdigest()
    before = Manifest.model_validate({**manifest.model_dump(), "content_digest": plain.value()})
    first = lake.datasets.commit("d", before)
    assert verify_dataset(lake.store, before).ok
    assert verify_dataset(lake.store, manifest).ok
    assert lake.datasets.commit("d", manifest) == first, "the same shards: the version is there"
    other = make_manifest(lake, 120)
    assert lake.datasets.commit("d", other).version == 2
    assert lake.datasets.commit("d", manifest) == first, "found though it is not the newest"
    assert np.array_equal([v.version for v in lake.datasets.history("d")], [1, 2])
