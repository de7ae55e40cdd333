"""A computed dataset: a manifest without shards, known before any row is, and the version that it may become."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from datalake import Lake, Manifest, load_manifest, save_manifest
from datalake.errors import Conflict, ManifestError
from datalake.reading.reader import DatasetReader
from tests.datalake.helpers import make_manifest, make_source


def computed_of(manifest: Manifest, **changes: object) -> Manifest:
    fields = {name: getattr(manifest, name) for name in ("source", "sequences", "seq_len", "vocab_size")}
    return Manifest.computed(**{**fields, **changes})


def test_stored_and_computed_rows_have_one_identity(tmp_path):
    manifest = make_manifest(Lake.open(str(tmp_path)), 10)
    computed = computed_of(manifest)
    assert computed.identity == manifest.identity != manifest.digest != computed.digest
    assert computed_of(manifest, sequences=11).identity != manifest.identity
    assert computed_of(manifest, source=make_source(seed=99)).identity != manifest.identity
    assert computed.stored(manifest.shards, manifest.content_digest) == manifest


def test_a_computed_manifest_says_only_what_fixes_the_rows(tmp_path):
    lake = Lake.open(str(tmp_path))
    stored = make_manifest(lake, 10)
    computed = computed_of(stored)
    fields = {"format", "kind", "source", "seq_len", "vocab_size", "sequences", "tokens"}
    assert set(json.loads(computed.canonical)) == fields
    assert set(json.loads(stored.canonical)) == fields | {"text_bytes", "content_digest", "shards"}  # as ever
    save_manifest(lake.store, computed)
    assert load_manifest(lake.store, computed.digest) == computed
    with pytest.raises(ManifestError, match="is computed and has no shards to read"):
        DatasetReader(lake.store, computed)


def test_text_cannot_be_computed_and_formats_do_not_mix(tmp_path):
    text = make_source().model_copy(update={"kind": "text", "seed": None, "generator": None})
    with pytest.raises(ManifestError, match="only synthetic data can be"):
        Manifest.computed(text, sequences=1, seq_len=2, vocab_size=2)
    stored = make_manifest(Lake.open(str(tmp_path)), 10)
    fields = stored.model_dump()
    for changes, said in (
        ({"format": 2}, "has none of"),
        ({"shards": ()}, "format 1 has shards"),
        ({"content_digest": None}, "format 1 has shards"),
    ):
        with pytest.raises(ValidationError, match=said):
            Manifest(**{**fields, **changes})
    lean = computed_of(stored).model_dump()
    with pytest.raises(ValidationError, match="11 tokens, but 10 sequences of 16"):
        Manifest(**{**lean, "tokens": 11})


def test_the_log_says_that_a_stored_and_a_computed_version_are_the_same_data(tmp_path):
    lake = Lake.open(str(tmp_path))
    other, stored = make_manifest(lake, 20), make_manifest(lake, 10)
    computed = computed_of(stored)
    assert lake.datasets.commit("d", other).same_rows_as is None
    first = lake.datasets.commit("d", computed)
    assert (first.ref, first.computed, first.same_rows_as) == ("d@2", True, None)
    second = lake.datasets.commit("d", stored)
    assert (second.ref, second.computed, second.same_rows_as) == ("d@3", False, 2)
    assert lake.datasets.commit("d", computed) == first  # neither is a new version again
    assert lake.datasets.commit("d", stored) == second
    assert lake.datasets.history("d")[1:] == [first, second]
    assert lake.datasets.commit("e", stored).same_rows_as is None
    assert lake.datasets.commit("e", computed).same_rows_as == 1
    lake.datasets.retire("e", 1)
    larger = computed_of(stored, source=make_source(shard_sequences=64))  # cut otherwise: other keys, other shards
    assert lake.datasets.commit("e", larger).same_rows_as is None


def test_a_commit_that_must_be_one_version_is_no_other(tmp_path):
    lake = Lake.open(str(tmp_path))
    first, second = make_manifest(lake, 10), make_manifest(lake, 20)
    with pytest.raises(Conflict, match="would be d@1, not d@2"):
        lake.datasets.commit("d", first, version=2)
    assert lake.datasets.commit("d", first, version=1).ref == "d@1"
    with pytest.raises(Conflict, match="is d@1, not d@2"):
        lake.datasets.commit("d", first, version=2)
    assert lake.datasets.commit("d", second, version=2).ref == "d@2"
    assert lake.datasets.commit("d", first, version=1).ref == "d@1"
    assert len(lake.datasets.history("d")) == 2
