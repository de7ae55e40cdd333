"""Parameter sets and datasets: versions, aliases, compare-and-set, and what is refused."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from datalake.canonical import canonical_json, digest_of
from datalake.errors import Conflict, CorruptObjectError, InvalidNameError, ManifestError, NotFoundError
from datalake.lake import Lake
from tests.datalake.helpers import make_dataset, make_manifest

SPEC = {"family": "nca", "colors": 4, "temperature": 0.0}


def test_versions_and_references(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    one = lake.params.put("code", SPEC, message="first")
    assert (one.ref, one.digest, one.spec, one.message) == ("code@1", digest_of(SPEC), SPEC, "first")
    assert lake.params.put("code", dict(reversed(SPEC.items()))) == one
    two = lake.params.put("code", {**SPEC, "colors": 5})
    assert two.version == 2
    three = lake.params.put("code", SPEC)
    assert (three.version, three.digest) == (3, one.digest)
    lake.params.tag("code", "stable", 2)

    other = Lake.open(lake_uri)
    assert other.params.get("code@1") == one
    assert other.params.get("code") == other.params.get("code@latest") == three
    assert other.params.get("code@stable") == two
    assert list(other.params.history("code")) == [one, two, three]
    assert other.params.aliases("code") == {"stable": 2}
    other.params.put("another", SPEC)
    assert [version.ref for version in lake.params.list()] == ["another@1", "code@3"]
    assert lake.store.get(f"specs/{one.digest}.json") == canonical_json(SPEC)


def test_force_makes_a_new_version_and_expect_guards(tmp_path) -> None:
    params = Lake.open(str(tmp_path)).params
    with pytest.raises(Conflict):
        params.put("code", SPEC, expect_version=1)
    params.put("code", SPEC, expect_version=0)
    assert params.put("code", SPEC, force=True).version == 2
    with pytest.raises(Conflict) as caught:
        params.put("code", {**SPEC, "colors": 9}, expect_version=1)
    assert (caught.value.expected, caught.value.found) == (1, 2)
    assert pickle.loads(pickle.dumps(caught.value)).found == 2  # noqa: S301 - our own bytes
    assert params.put("code", {**SPEC, "colors": 9}, expect_version=2).version == 3


def test_aliases_move_by_compare_and_set(tmp_path) -> None:
    params = Lake.open(str(tmp_path)).params
    for colors in (2, 3, 4):
        params.put("code", {**SPEC, "colors": colors})
    params.tag("code", "best", 1, expect=0)
    assert params.tag("code", "best", 1, expect=1).version == 1
    with pytest.raises(Conflict, match="found it at 1"):
        params.tag("code", "best", 2, expect=3)
    params.tag("code", "best", 3, expect=1)
    assert params.get("code@best").version == 3
    with pytest.raises(NotFoundError, match="no version 4: it has versions 1 to 3"):
        params.tag("code", "best", 4)


def test_what_is_missing_says_what_there_is(tmp_path) -> None:
    params = Lake.open(str(tmp_path)).params
    with pytest.raises(NotFoundError, match="no parameter set named 'code'"):
        params.get("code@1")
    params.put("code", SPEC)
    for ref, says in (
        ("code@2", "no version 2: it has version 1 only"),
        ("code@0", "version 0"),
        ("code@x", "alias x"),
    ):
        with pytest.raises(NotFoundError, match=says) as caught:
            params.get(ref)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "-a", "a b", "a\n", "ü", "x" * 129, "a@1@2", "a@", "a@-1"])
def test_bad_names_leave_nothing_behind(tmp_path, name: str) -> None:
    params = Lake.open(str(tmp_path)).params
    if not name.startswith("a@"):
        with pytest.raises(InvalidNameError):
            params.put(name, SPEC)
    with pytest.raises(InvalidNameError):
        params.get(name)
    assert list(tmp_path.iterdir()) == []


def test_specs_that_json_cannot_hold(tmp_path) -> None:
    params = Lake.open(str(tmp_path)).params
    with pytest.raises(ValueError, match="JSON compliant"):
        params.put("code", {"temperature": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_spec_is_refused(tmp_path) -> None:
    params = Lake.open(str(tmp_path)).params
    version = params.put("code", SPEC)
    (tmp_path / "specs" / f"{version.digest}.json").write_text('{"family": "nca", "colors": 5}')
    with pytest.raises(CorruptObjectError, match=version.digest):
        params.get("code")
    with pytest.raises(CorruptObjectError, match=version.digest):
        params.put("other", SPEC)


def test_commits_of_the_same_data_leave_one_version(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    manifest = make_manifest(lake)
    with ThreadPoolExecutor(3) as pool:
        versions = list(pool.map(lambda _: Lake.open(lake_uri).datasets.commit("d", manifest), range(3)))
    assert {version.version for version in versions} == {1}
    assert len(lake.datasets.history("d")) == 1
    assert lake.datasets.manifest("d@1") == manifest


def test_dataset_versions(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    lake.params.put("code", SPEC)
    one = make_dataset(lake, "d", 100, params="code@1")
    two = make_dataset(lake, "d", 130)
    assert (one.ref, one.sequences, one.tokens, one.params, one.kind) == ("d@1", 100, 1600, "code@1", "synthetic")
    assert make_dataset(lake, "d", 100) == one
    assert lake.datasets.get("d") == two
    assert lake.datasets.tag("d", "small", 1) == lake.datasets.get("d@small") == one
    assert [version.ref for version in lake.datasets.list()] == ["d@2"]
    copy = pickle.loads(pickle.dumps(lake))  # noqa: S301 - our own bytes
    assert copy.datasets.get("d@1") == one


def test_a_commit_with_a_hole_is_refused(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    lake.store.delete(manifest.shards[1].key)
    with pytest.raises(ManifestError, match=f"1 of 4 shards.*{manifest.shards[1].key}"):
        lake.datasets.commit("d", manifest)
    assert not (tmp_path / "datasets").exists()
    assert not (tmp_path / "manifests").exists()


def test_a_damaged_manifest_is_refused(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    version = make_dataset(lake, "d")
    path = tmp_path / "manifests" / f"{version.digest}.json"
    path.write_text(path.read_text().replace('"sequences":100', '"sequences":101'))
    with pytest.raises(CorruptObjectError, match=version.digest):
        lake.datasets.manifest("d@1")
