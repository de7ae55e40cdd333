"""Addresses of lakes: any prefix that S3 takes, and nothing that only looks like an address."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from datalake.errors import LakePathError
from datalake.lake import Lake
from datalake.store.addresses import MAX_PREFIX, S3Address, parse_address
from datalake.store.open import open_store
from orchestration.commands.common import open_lake
from orchestration.serve.app import create_app
from tests.datalake.helpers import make_manifest
from tests.s3server import S3Server

PREFIXES = [
    "team=nlp/lake", "my lake", "a+b", "100%/x", "%2F", "user@corp", "größe/日本", "a&b;c:d,e", "what?", "so#1",
    "(x)[y]{z}",    "quote'\"", "~tilde^*!$", "<b>",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_client_finds_the_same_objects_below_any_prefix(s3_env: S3Server, prefix: str) -> None:
    """boto3, a link, Arrow and listings; a prefix is what it is written as, and nothing in it an escape."""
    uri = f"s3://lake/addresses/{prefix}"
    store = open_store(uri)
    assert open_store(store.uri).uri == uri
    assert store.put_if_absent("a/b", b"1")
    assert not store.put_if_absent("a/b", b"2")
    assert store.get("a/b") == b"1"
    assert [*store.list("a/")] == ["a/b"]
    assert [info.key for info in store.infos("a/")] == ["a/b"]
    assert [*store.children()] == ["a", "probe"]
    link = store.presigned_url("a/b", 60, "x")
    assert link is not None
    assert urllib.request.urlopen(link).read() == b"1"
    filesystem, base = store.arrow_filesystem()
    with filesystem.open_input_file(f"{base}/a/b") as file:
        assert file.read() == b"1"
    listed = s3_env.client().list_objects_v2(Bucket="lake", Prefix=f"addresses/{prefix}/a/")
    assert [item["Key"] for item in listed["Contents"]] == [f"addresses/{prefix}/a/b"]


def test_a_lake_below_a_difficult_prefix_works_as_a_whole(s3_env: S3Server) -> None:  # noqa: ARG001
    uri = "s3://lake/team=nlp/größe 100%+1"
    lake = open_lake(f"S3://{uri[5:]}/")
    assert lake.uri == uri
    assert lake.params.put("p", {"family": "nca"}).version == 1
    lake.datasets.commit("d", make_manifest(lake, sequences=10))
    (shard,) = lake.datasets.manifest("d").shards
    with TestClient(create_app(lake, loopback_only=True), base_url="http://127.0.0.1") as client:
        assert client.get("/api/v1/params").json()["items"][0]["name"] == "p"
        assert "größe 100%+1" in client.get("/").text
        answer = client.get("/api/v1/datasets/d/versions/1/shards/0", follow_redirects=False)
        assert answer.status_code == 307
        assert urllib.request.urlopen(answer.headers["location"]).read() == lake.store.get(shard.key)


def test_one_spelling(tmp_path: Path) -> None:
    for uri in ("s3://b/x", "S3://b/x", "s3://b/x/", "s3://b//x//"):
        assert parse_address(uri) == S3Address("b", "x")
    assert parse_address("s3://b").uri == "s3://b" == parse_address("s3://b/").uri
    assert parse_address("s3://b/" + "ü" * (MAX_PREFIX // 2)).prefix == "ü" * (MAX_PREFIX // 2)
    for uri in (f"file://{tmp_path}", f"FILE://{tmp_path}", str(tmp_path)):
        assert parse_address(uri) == tmp_path
    for folder in ("lake", "./s3:", "a:b", "C:", "s3", "s3/lake", "s3-lake/x", "~/lake", "über/lake", "gs", "a=b/c+d"):
        assert parse_address(folder) == Path(folder)


MISTYPED = [
    "s3:/bucket/x", "s3:bucket/x", "s3:bucket", "S3:/bucket/x", "s3//bucket/x", "s3;//bucket/x", "s3a://bucket/x",
    "s3n://bucket/x", "s3a:bucket", "gs://bucket/x", "gs:/bucket/x", "gcs:x", "http://host/x", "https:/host/x",
    "hdfs://host/x", "az:x", "file:x", "file:/x", "file://x", "file:////x", "s4://b/x", " s3://b/x", "'s3://b/x'",
    "ftp:x", "notes:/x", "://x", "",
]  # fmt: skip


@pytest.mark.parametrize("uri", MISTYPED)
def test_what_looks_mistyped_is_refused_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for opening in (open_lake, Lake.open):
        with pytest.raises(LakePathError, match="s3://bucket/prefix") as caught:
            opening(uri)
        assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://b/a//c", "empty"),
        ("s3://b/a/../c", "'..'"),
        ("s3://b/./a", "'.'"),
        ("s3://b/x\r", "control character"),
        ("s3://b/a\nb", "control character"),
        ("s3://b\\x", "backslash"),
        ("s3://b/x?region=eu-west-1", "AWS_REGION"),
        ("s3://b/" + "ü" * 151, "302 bytes"),
        ("s3://b/\udcff", "UTF-8"),
        ("s3:///x", "s3://bucket/prefix"),
        ("s3://KEY:HUSH@b/x", "AWS_"),
        ("s3:KEY:HUSH@b/x", "s3://bucket/prefix"),
        ("s4://KEY:HUSH@b/x", "s3://bucket/prefix"),
    ],
)
def test_prefixes_that_no_client_could_keep_are_refused(uri: str, says: str) -> None:
    with pytest.raises(LakePathError, match=says) as caught:
        Lake.open(uri)
    assert "\n" not in str(caught.value)
    assert "HUSH" not in str(caught.value)
    str(caught.value).encode()
