"""What an S3 server's answers mean: what can pass is asked again, what says no is named at once, with what to do."""

from __future__ import annotations

import os
import pickle
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader

from datalake.clock import System
from datalake.errors import (
    BucketNotFoundError,
    ClockSkewError,
    CredentialsError,
    LakePathError,
    ObjectTooLargeError,
    ProbeError,
    RegionError,
    StoreRefusedError,
    StoreUnavailableError,
)
from datalake.lake import Lake
from datalake.log.version_log import VersionLog
from datalake.maintenance.damage_policy import Repairer
from datalake.store.conformance import read_conformance, record_conformance
from datalake.store.open import open_store
from datalake.store.probe import probe_store
from datalake.store.s3 import S3Store
from datalake.store.s3_errors import _BY_CODE, _PASSES
from tests import fake_s3
from tests.fake_s3 import FakeS3, answers

URI = "s3://b/lake"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with fake_s3.fake_s3(monkeypatch) as running:
        yield running


def waiting_never() -> S3Store:
    """A store of which a pause is a mistake of the code."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for an answer that cannot change")

    return S3Store(URI, System(sleep=sleep))


NO = [
    (400, "EntityTooLarge", ObjectTooLargeError, r"takes no (object of this size|\d+ bytes)"),
    (413, "EntityTooLarge", ObjectTooLargeError, r"takes no (object of this size|\d+ bytes)"),
    (400, "InvalidRequest", StoreRefusedError, "asking again would give the same answer"),
    (400, "SomethingNew", StoreRefusedError, "asking again would give the same answer"),
    (418, "", StoreRefusedError, "asking again would give the same answer"),
    (405, "MethodNotAllowed", StoreRefusedError, "asking again would give the same answer"),
    (505, "", StoreRefusedError, "asking again would give the same answer"),
    (400, "KMS.DisabledException", StoreRefusedError, "KMS key"),
    (400, "KMS.KMSInvalidStateException", StoreRefusedError, "KMS key"),
    (403, "InvalidObjectState", StoreRefusedError, "archived"),
    (507, "XMinioStorageFull", StoreRefusedError, "full"),
    (400, "QuotaExceeded", StoreRefusedError, "full"),
    (403, "AccessDenied", CredentialsError, "may not s3:"),
    (403, "", CredentialsError, "may not s3:"),
    (403, "SignatureDoesNotMatch", CredentialsError, "AWS_SECRET_ACCESS_KEY.*us-east-1"),
    (403, "InvalidAccessKeyId", CredentialsError, "AWS_ACCESS_KEY_ID"),
    (400, "ExpiredToken", CredentialsError, "expired.*aws sso login"),
    (403, "ExpiredToken", CredentialsError, "expired.*aws sso login"),
    (403, "RequestTimeTooSkewed", ClockSkewError, "clock is off.*NTP"),
    (400, "IllegalLocationConstraintException", RegionError, "not in region us-east-1.*AWS_REGION"),
    (400, "AuthorizationHeaderMalformed", CredentialsError, "credentials"),
    (404, "NoSuchBucket", BucketNotFoundError, "'b' does not exist"),
    (400, "InvalidBucketName", LakePathError, "'b' cannot be the name"),
]  # fmt: skip


def test_no_is_an_answer(server: FakeS3) -> None:
    store = waiting_never()
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.get("k"),
        lambda: store.replace("probe/k", b""),
        lambda: store.exists("k"),
        lambda: [*store.list("k/")],
        store.check,
    )
    for status, code, kind, says in NO:
        server.behaviour = answers(status, code, "the server's own words")
        for number, call in enumerate(calls):
            if status == 404 and number == 2:
                continue  # the answer to a HEAD cannot tell a bucket that is not there from an object
            with pytest.raises(kind, match=says) as caught:
                call()
            text = str(caught.value)
            assert type(caught.value) is kind
            assert URI in text
            assert "did not answer" not in text
            assert "\n" not in text
            assert ("the server's own words" in text) == (kind is not CredentialsError and code != ""), text


PASSING = [
    (500, "InternalError"), (502, ""), (503, "SlowDown"), (503, "ServiceUnavailable"), (504, ""), (429, "SlowDown"),
    (429, ""), (408, ""), (400, "RequestTimeout"), (400, "IncompleteBody"), (400, "BadDigest"),
    (409, "OperationAborted"), (409, "ConditionalRequestConflict"), (400, "KMS.ThrottlingException"),
]  # fmt: skip


def test_what_can_pass_is_asked_again(server: FakeS3) -> None:
    store = S3Store(URI, System(sleep=lambda _: None))
    for status, code in PASSING:
        for call in (
            lambda: store.put_if_absent("probe/k", b"v") in (True, False),
            lambda: store.get("probe/k") == b"v",
            lambda: store.exists("probe/k"),
            lambda: [*store.list("probe/")] == ["probe/k"],
        ):
            server.behaviour = fake_s3.first_times(3, answers(status, code))
            assert call()
    server.behaviour = answers(503, "SlowDown")
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        store.get("probe/k")


def test_botocore_s_description_of_s3_is_read_once(server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    S3Store(URI, System()).exists("k")

    def load_file(_self: object, path: str) -> None:
        raise AssertionError(f"read {path} again")

    monkeypatch.setattr(JSONFileLoader, "load_file", load_file)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")  # settings are looked at anew all the same
    assert not S3Store(URI, System()).exists("k")
    assert "Credential=another/" in server.requests[-1].headers["Authorization"]


def test_the_table_has_one_meaning_for_each_code() -> None:
    assert not _PASSES & set(_BY_CODE)


def test_an_answer_that_is_not_s3_is_named(server: FakeS3) -> None:
    for page in (b'{"detail": "hello"}', b"<html><p>It works!</p></html>", b"<!doctype html><br>It works!"):
        server.behaviour = answers(200, body=page)
        with pytest.raises((StoreRefusedError, StoreUnavailableError), match=r"AWS_ENDPOINT_URL_S3"):
            S3Store(URI, System(sleep=lambda _: None)).check()
    server.behaviour = answers(404, body=b"<html>not here</html>")
    with pytest.raises(BucketNotFoundError, match=r"no S3 server.*AWS_ENDPOINT_URL_S3"):
        open_store(URI)


def test_a_server_that_redirects_whatever_it_is_asked_is_named(server: FakeS3) -> None:
    server.behaviour = answers(301, "PermanentRedirect")
    with pytest.raises(RegionError, match=r"redirect.*AWS_ENDPOINT_URL_S3.*AWS_REGION"):
        waiting_never().check()


def test_a_certificate_that_nobody_vouches_for_is_named_at_once(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint.replace("http:", "https:"))  # it speaks no TLS at all
    with pytest.raises(StoreRefusedError, match="AWS_CA_BUNDLE"):
        waiting_never().check()


@pytest.mark.parametrize("minutes", [-20, 20, 0])
def test_a_clock_that_is_off_is_named_with_its_error(server: FakeS3, minutes: int) -> None:
    server.behaviour = fake_s3.clock_is_off(minutes)
    side = {-20: r"20 minutes ahead of", 20: r"20 minutes behind", 0: "clock is off, so"}[minutes]
    for call in (S3Store.check, lambda store: store.put_if_absent("probe/k", b""), lambda store: store.exists("k")):
        with pytest.raises(ClockSkewError, match=side) as caught:
            call(waiting_never())
        assert "AWS_ENDPOINT" not in str(caught.value)


# -- stores that cannot hold a lake


def test_a_store_without_conditional_writes_says_so_at_once(server: FakeS3) -> None:
    server.behaviour = fake_s3.no_conditional_writes
    for refusal in (fake_s3.no_conditional_writes, answers(400, "InvalidArgument", "If-None-Match: bad", to="PUT")):
        server.behaviour = refusal
        with pytest.raises(ProbeError, match=r"If-None-Match.*cannot hold a lake.*MinIO"):
            waiting_never().put_if_absent("params/x/00000001.json", b"{}")
    server.behaviour = fake_s3.no_conditional_writes
    report = probe_store(waiting_never(), writers=32, keys=50)
    assert not report.ok
    assert "If-None-Match" in report.violations[0]
    assert len([r for r in server.requests if r.key.endswith("-first")]) == 1
    record_conformance(open_store(URI), report, System())
    with pytest.raises(ProbeError, match=r"must not be written.*`morphogen probe` found"):
        Lake.open(URI).params.put("x", {"family": "nca"})


def test_the_first_write_of_a_lake_finds_out_a_store_that_ignores_the_condition(monkeypatch) -> None:
    with fake_s3.fake_s3(monkeypatch, ignores_conditions=True) as server:
        lake = Lake.open(URI)
        with pytest.raises(ProbeError, match=r"its first write found at .* ignores If-None-Match"):
            lake.params.put("x", {"family": "nca"})
        assert len([r for r in server.requests if r.conditional]) == 2
        assert [*lake.params.names()] == [], "nothing that its writer was told is committed"
        record = read_conformance(lake.store)
        assert (record.ok, record.found_by) == (False, "first write")
        for _ in range(2):  # from then on, for every process, in one request and without a write
            del server.requests[:]
            with pytest.raises(ProbeError, match="must not be written"):
                Lake.open(URI).params.put("y", {"family": "nca"})
            assert [r.method for r in server.requests if r.key] == ["GET"]
        server.ignores_conditions = False  # another gateway, a newer server
        record_conformance(lake.store, probe_store(lake.store, writers=4, keys=2), lake.system)
        assert Lake.open(URI).params.put("y", {"family": "nca"}).version == 1


def test_two_writers_that_race_for_the_first_version_are_both_told(monkeypatch) -> None:
    with fake_s3.fake_s3(monkeypatch, ignores_conditions=True):
        logs = [VersionLog(open_store(URI), "params", "x", System()) for _ in range(2)]
        for log in logs:  # neither has seen the other's entry
            with pytest.raises(ProbeError):
                log.append({}, expected_head=0)


def test_the_first_write_costs_a_good_store_three_requests_once(server: FakeS3) -> None:
    def writes() -> list[str]:
        found = [f"{r.method} {r.key}" for r in server.requests if r.key]
        del server.requests[:]
        return found

    assert open_store(URI).put_if_absent("a", b"1")
    assert writes() == ["GET lake/probe/verdict.json", "PUT lake/a", "PUT lake/a", "PUT lake/probe/verdict.json"]
    store = open_store(URI)
    assert store.put_if_absent("b", b"2")
    assert not store.put_if_absent("b", b"3")
    assert writes() == ["GET lake/probe/verdict.json", "PUT lake/b", "PUT lake/b"]
    assert server.objects["b", "lake/b"] == b"2"
    assert read_conformance(store).found_by == "first write"


def test_an_object_that_was_there_proves_it_too_and_a_record_that_cannot_be_kept_costs_nothing(server: FakeS3) -> None:
    server.objects["b", "lake/a"] = b"1"
    server.behaviour = lambda r: fake_s3.Refusal(403, "AccessDenied") if r.key.endswith("verdict.json") and (
        r.method == "PUT"
    ) else None  # fmt: skip
    store = open_store(URI)
    assert not store.put_if_absent("a", b"2")
    assert store.put_if_absent("b", b"2")
    assert len([r for r in server.requests if r.conditional]) == 3


# -- what other servers understand


@pytest.mark.parametrize("status", [400, 501])
def test_stores_without_new_checksums_are_spoken_to_as_they_understand(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    server.behaviour = fake_s3.plain_uploads_only(status, {400: "InvalidArgument", 501: "NotImplemented"}[status])
    lake = Lake.open(URI)
    assert lake.params.put("x", {"family": "nca"}).version == 1
    assert lake.params.get("x").spec == {"family": "nca"}
    put = next(r for r in server.requests if r.method == "PUT")
    assert len(put.headers["x-amz-content-sha256"]) == 64, "the signature covers what is sent"
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    with pytest.raises(StoreRefusedError, match=r"AWS_REQUEST_CHECKSUM_CALCULATION.*when_required"):
        waiting_never().put_if_absent("probe/y", b"")


def test_a_region_that_the_store_tells_is_used_by_requests_and_links(server: FakeS3) -> None:
    server.behaviour = fake_s3.region_is("garage", told=True)
    store = open_store(URI)
    assert store.put_if_absent("a", b"1")
    assert store.get("a") == b"1"
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    for one in (store, again):
        url = one.presigned_url("a", 60, "a.bin")
        assert urllib.request.urlopen(url).read() == b"1"
    filesystem, base = store.arrow_filesystem()
    with filesystem.open_input_file(f"{base}/a") as file:
        assert file.read() == b"1"


def test_a_region_that_the_store_does_not_tell_is_named(server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviour = fake_s3.region_is("garage", told=False)
    for call in (S3Store.check, lambda store: store.exists("k"), lambda store: store.put_if_absent("k", b"")):
        with pytest.raises(RegionError, match=r"not in region us-east-1.*unexpected scope.*AWS_REGION"):
            call(waiting_never())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "garage")
    assert open_store(URI).put_if_absent("a", b"1")


# -- credentials


def test_expired_credentials_are_had_anew_from_where_they_came(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(key: str) -> None:
        secrets = f"aws_secret_access_key = SECRET\naws_session_token = TOKEN-{key}"
        file.write_text(f"[default]\naws_access_key_id = {key}\n{secrets}\n")

    write("ONE")
    server.behaviour = fake_s3.accepts_key("ONE")
    store = S3Store(URI, waiting_never()._system)
    assert store.put_if_absent("a", b"1")
    write("TWO")
    for call in (
        lambda: store.put_if_absent("b", b"2"), lambda: store.exists("a"), lambda: store.get("a"),
        lambda: [*store.list()],
    ):  # fmt: skip
        server.behaviour = fake_s3.accepts_key("TWO")
        assert call()
        write("THREE")
        server.behaviour = fake_s3.accepts_key("THREE")
        assert call() is not None
        write("TWO")
    server.behaviour = fake_s3.accepts_key("FOUR")
    with pytest.raises(CredentialsError, match=r"expired.*gave no newer ones.*aws sso login") as caught:
        store.get("a")
    assert "SECRET" not in str(caught.value)
    assert "TOKEN-" not in str(caught.value)


EXPIRED = '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "HUSH", "Expiration": "2020-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (f"echo '{EXPIRED}'", "could not be had or refreshed.*expired"),
        ("sh -c 'echo no >&2; exit 3'", "could not be had.*no"),
        ("/no/such/program", "could not be had.*/no/such/program"),
    ],
)
def test_a_chain_that_gives_no_credentials_is_named(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, says: str
) -> None:
    del server
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for call in (S3Store.check, lambda s: s.presigned_url("a", 60, "a"), lambda s: s.arrow_filesystem()):
        with pytest.raises(CredentialsError, match=says) as caught:
            call(waiting_never())
        assert "HUSH" not in str(caught.value)


def test_a_wait_for_the_store_is_for_what_can_pass_only(server: FakeS3) -> None:
    """The wait of jobs (120 s) is for a server that does not answer, and not for one that says no."""
    lake = Repairer(system=waiting_never()._system).open(URI)
    for code, kind in (("InvalidRequest", StoreRefusedError), ("ExpiredToken", CredentialsError)):
        server.behaviour = answers(400, code)
        with pytest.raises(kind):
            lake.store.get("k")
    assert "AWS_PROFILE" not in os.environ
