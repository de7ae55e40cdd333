"""What a dataset will be is known before it is: its identity, and the version that it may be committed as."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from datalake import Lake, PlannedDataset
from datalake.errors import Conflict
from tests.datalake.helpers import make_manifest, make_source


def plan_of(manifest, **changes):
    fields = {name: getattr(manifest, name) for name in ("source", "sequences", "seq_len", "vocab_size")}
    return PlannedDataset(**{**fields, **changes})


def test_a_synthetic_manifest_keeps_the_identity_it_was_planned_with(tmp_path):
    manifest = make_manifest(Lake.open(str(tmp_path)), 10)
    assert plan_of(manifest).identity == manifest.identity != manifest.digest
    assert plan_of(manifest, sequences=11).identity != manifest.identity
    assert plan_of(manifest, source=make_source(seed=99)).identity != manifest.identity


def test_text_cannot_be_planned():
    text = make_source().model_copy(update={"kind": "text", "seed": None, "generator": None})
    with pytest.raises(ValidationError, match="only synthetic data can be planned"):
        PlannedDataset(source=text, sequences=1, seq_len=2, vocab_size=2)


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
