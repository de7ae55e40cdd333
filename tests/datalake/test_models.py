"""Models and lineage: one version per publication, verified files, and the way back to the parameters."""

from __future__ import annotations

import json

import pytest

from datalake.errors import CorruptObjectError, InvalidNameError, NotFoundError
from datalake.lake import Lake
from datalake.maintenance.lineage import lineage
from tests.datalake.helpers import make_dataset, make_source

FILES = {"model.safetensors": b"\x00\x01weights", "config.json": b"{}"}


def test_publish_get_tag_open(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    one = lake.models.publish("m", FILES, run="r", datasets=["d@1"], metrics={"loss": 2.0}, message="hello")
    assert lake.models.publish("m", FILES, run="r", datasets=["d@1"], metrics={"loss": 2.5}) == one
    two = lake.models.publish("m", FILES, run="r2", datasets=["d@1"])
    assert (one.ref, two.ref, one.metrics, one.message) == ("m@1", "m@2", {"loss": 2.0}, "hello")
    lake.models.tag("m", "best", 1)
    other = Lake.open(lake_uri)
    assert other.models.get("m@best") == one
    assert other.models.get("m") == two
    assert list(other.models.history("m")) == [one, two]
    assert [version.ref for version in other.models.list()] == ["m@2"]
    assert other.models.open_file("m@1", "model.safetensors") == FILES["model.safetensors"]
    assert other.models.open_file(two, "config.json") == b"{}"
    with pytest.raises(NotFoundError, match="no file 'x'"):
        other.models.open_file(one, "x")


def test_a_damaged_file_is_refused(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    version = lake.models.publish("m", FILES, run="r")
    path = tmp_path / version.key_prefix / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptObjectError, match=r"model\.safetensors of model m@1 is corrupt"):
        lake.models.open_file("m", "model.safetensors")
    with pytest.raises(CorruptObjectError):
        lake.models.publish("m", FILES, run="r2")


def test_bad_references_leave_nothing_behind(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    for wrong in ({"run": "a/b"}, {"run": "r", "datasets": ["d@@1"]}, {"run": "r", "parents": ["../x"]}):
        with pytest.raises(InvalidNameError):
            lake.models.publish("m", FILES, **wrong)
    with pytest.raises(InvalidNameError):
        lake.models.publish("m", {"../evil": b""}, run="r")
    assert list(tmp_path.iterdir()) == []


def test_lineage_reaches_the_parameters_through_parents(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    spec = make_source().spec
    params = lake.params.put("code", spec)
    make_dataset(lake, "synthetic", params="code@1")
    make_dataset(lake, "language", seed=8)
    make_dataset(lake, "heldout", seed=9)
    lake.runs.start("pre", "train", {"lr": 1}, {"datasets": ["synthetic@1"]}).finish()
    lake.models.publish(
        "pre", FILES, run="pre", datasets=["synthetic@1"], spec_digests=[params.digest], params=["code@1"]
    )
    lake.runs.start("main", "train", {"lr": 2}, {"datasets": ["language@1", "heldout@1"], "models": ["pre@1"]})
    lake.models.publish("main", {"model.safetensors": b"2"}, run="main", datasets=["language@1"], parents=["pre@1"])

    tree = lineage(lake, "main")
    assert json.loads(json.dumps(tree)) == tree
    assert (tree["model"]["ref"], tree["run"]["name"], tree["run"]["status"]) == ("main@1", "main", "running")
    assert [dataset["ref"] for dataset in tree["datasets"]] == ["language@1", "heldout@1"]
    (parent,) = tree["parents"]
    assert (parent["model"]["ref"], parent["run"]["status"]) == ("pre@1", "finished")
    assert parent["datasets"][0]["ref"] == "synthetic@1"
    assert parent["datasets"][0]["params"] == {"ref": "code@1", "digest": params.digest, "retired": False}
    assert parent["params"] == [{"ref": "code@1", "digest": params.digest, "retired": False}]
    assert parent["spec_digests"] == [params.digest]
    assert parent["parents"] == []


def test_lineage_of_what_is_not_there(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    with pytest.raises(NotFoundError, match="no model named 'm'"):
        lineage(lake, "m@1")
    lake.models.publish("m", FILES, run="gone")
    assert lineage(lake, "m")["run"] == {"name": "gone", "missing": True}
