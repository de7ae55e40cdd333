"""What goes wrong with an S3 address is one named error at opening, before any work and without secrets."""

from __future__ import annotations

import socket

import pytest

from datalake.errors import BucketNotFoundError, CredentialsError, LakePathError, StoreUnavailableError
from datalake.store.open import open_store
from tests.s3server import S3Server


def test_missing_bucket(s3_env: S3Server) -> None:
    with pytest.raises(BucketNotFoundError, match="'no-such-bucket' does not exist"):
        open_store("s3://no-such-bucket/lake")
    assert "no-such-bucket" not in [b["Name"] for b in s3_env.client().list_buckets()["Buckets"]]


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(s3_lake_uri: str, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "not-the-right-one")
    with pytest.raises(CredentialsError) as caught:
        open_store(s3_lake_uri)
    assert "\n" not in str(caught.value)
    assert "not-the-right-one" not in str(caught.value)


def test_no_credentials(s3_lake_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(CredentialsError, match="no credentials found"):
        open_store(s3_lake_uri)


def test_nobody_listens(s3_lake_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            open_store(s3_lake_uri)


def test_a_bucket_name_that_cannot_be(s3_env: S3Server) -> None:  # noqa: ARG001
    with pytest.raises(LakePathError):
        open_store("s3://Not_A_Bucket!/x")


def test_endpoint_by_the_general_variable(
    s3_lake_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    assert open_store(s3_lake_uri).put_if_absent("k", b"v")
