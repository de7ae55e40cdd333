"""HTTP as its RFCs have it: media types, order of refusals, Allow, ranges, conditions, strict JSON; and silence."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.console.foreign import shown
from orchestration.serve.api.bodies import MAX_DEPTH, parse_json
from orchestration.serve.delivery import byte_range
from orchestration.serve.logs import SafeFormatter, redacted
from orchestration.serve.problems import InvalidRequestError, RangeNotSatisfiableError
from tests.serve.conftest import API, Site
from tests.serve.lake_content import SPEC

SHARD = "/datasets/grids/versions/1/shards/0"
FILE = "/models/language-model/versions/1/files/model.safetensors"


def test_a_body_that_is_no_json_is_415(site: Site):
    body = json.dumps({"spec": SPEC}).encode()
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/jsonx"},
        {},
    ):
        refused = site.api().put("/params/hostile", content=body, headers=headers)
        assert refused.status_code == 415, headers
        assert refused.headers["accept"] == "application/json"
        assert refused.headers["content-type"] == "application/problem+json"
    packed = site.api().put("/params/hostile", json={}, headers={"Content-Encoding": "gzip"})
    assert (packed.status_code, packed.headers["accept-encoding"]) == (415, "identity")
    fine = {"Content-Type": "application/merge-patch+json; charset=utf-8"}
    assert site.api().put("/params/typed", content=body, headers=fine).status_code == 201


@pytest.mark.parametrize("content", [b"{", b"[" * 1000, b"\xff", b"", b'{"spec": 3}', b"{}"])
@pytest.mark.parametrize("path", ["/params/hostile", "/params/tiny/aliases/x"])
def test_who_is_asked_before_what(site: Site, path: str, content: bytes):
    for kind in ("application/json", "text/plain"):
        headers = {"Content-Type": kind, "If-Match": "nonsense", "Idempotency-Key": "a b"}
        nobody = site.servers[0].client().put(API + path, content=content, headers=headers)
        assert nobody.status_code == 401
        assert "bearer" in nobody.headers["www-authenticate"].lower()
        assert site.api("reader").put(path, content=content, headers=headers).status_code == 403
    bad = site.servers[0].client().get(f"{API}/params?limit=x&cursor={'y' * 500}")
    assert bad.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/params/tiny", "GET, HEAD, PUT"),
        ("DELETE", "/params", "GET, HEAD"),
        ("PATCH", "/params/tiny/aliases/stable", "GET, HEAD, PUT"),
        ("GET", "/tokens/0123456789ab", "DELETE"),
        ("OPTIONS", "/params/tiny", "GET, HEAD, PUT"),
        ("BREW", "/runs/language", "DELETE, GET, HEAD"),
    ],
)
def test_allow_lists_what_exists(site: Site, method: str, path: str, allowed: str):
    refused = site.api("admin").request(method, path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    assert refused.json()["status"] == 405


@pytest.mark.parametrize("path", [SHARD, FILE])
def test_parts_of_files(site: Site, path: str):
    api = site.api("reader")
    whole = api.get(path)
    size = len(whole.content)
    assert (whole.headers["accept-ranges"], whole.headers["content-length"]) == ("bytes", str(size))
    for asked, first, end in (
        ("bytes=4-11", 4, 12),
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, size),
        ("bytes=-5", size - 5, size),
        ("bytes=-999999999", 0, size),
        (f"bytes=1-{10**18}", 1, size),
        ("BYTES=4-11", 4, 12),
    ):
        part = api.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole.content[first:end]), asked
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
    for ignored in ("bytes", "bytes=", "bytes=-", "bytes=x-y", "bytes=9-4", "lines=1-2", "bytes=1-2,4-5", "bytes=--1"):
        everything = api.get(path, headers={"Range": ignored})
        assert (everything.status_code, everything.content) == (200, whole.content), ignored
    for beyond in (f"bytes={size}-", "bytes=999999999999-", "bytes=-0"):
        refused = api.get(path, headers={"Range": beyond})
        assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{size}"), beyond
        assert refused.headers["content-type"] == "application/problem+json"
    tag = whole.headers["etag"]
    assert api.get(path, headers={"Range": "bytes=4-11", "If-Range": tag}).status_code == 206
    assert api.get(path, headers={"Range": "bytes=4-11", "If-Range": '"other"'}).status_code == 200
    head = api.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))


@settings(deadline=None)
@given(st.text(alphabet="bytes=-,0123456789 \t;x", max_size=24), st.integers(1, 10**6))
def test_any_range_is_a_part_or_everything(header: str, size: int):
    try:
        found = byte_range(header, size)
    except RangeNotSatisfiableError:
        return
    if found is not None:
        first, end = found
        assert 0 <= first < end <= size


def test_who_has_a_file_is_sent_nothing(any_site: Site):
    api = any_site.api("reader")
    for path in (SHARD, FILE):
        digest = _digest(api, path)
        for tag in (f'"{digest}"', f'W/"{digest}", "x"', "*"):
            again = api.get(path, headers={"If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == f'"{digest}"'
        assert api.get(path, headers={"If-None-Match": '"other"'}).status_code in (200, 307)


def _digest(api: httpx.Client, path: str) -> str:
    if "shards" in path:
        return api.get("/datasets/grids/versions/1/manifest").json()["shards"][0]["sha256"]
    return api.get("/models/language-model/versions/1").json()["files"]["model.safetensors"]["sha256"]


STRICT = {
    "twice": '{"spec": %s, "spec": %s}',
    "twice inside": '{"spec": {"colors": 3, "colors": 4}}',
    "nan": '{"spec": {"temperature": NaN}}',
    "infinite": '{"spec": {"temperature": 1e999}}',
    "digits": '{"spec": {"colors": ' + "9" * 4000 + "}}",
    "deep": '{"spec": ' + '{"a":' * 40 + "1" + "}" * 40 + "}",
    "deep list": '{"spec": {"grid": ' + "[" * 900 + "]" * 900 + "}}",
    "text for a number": '{"spec": {"colors": "3"}}',
    "text for numbers": '{"spec": {"grid": ["12", 12]}}',
    "truth for a number": '{"spec": {"colors": true}}',
    "text for a band": '{"spec": {"band": {"low": "0.1", "high": 0.9}}}',
    "text for truth": '{"spec": {}, "force": "yes"}',
    "number for truth": '{"spec": {}, "force": 1}',
    "number for text": '{"spec": {}, "message": 3}',
    "list": "[]",
    "utf-16": '{"spec": {}}',
}


@pytest.mark.parametrize("kind", STRICT)
def test_json_is_read_strictly(site: Site, kind: str):
    body = STRICT[kind].replace("%s", json.dumps(SPEC)).encode("utf-16" if kind == "utf-16" else "utf-8")
    refused = site.api().put("/params/hostile", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code in (400, 422), kind
    assert len(refused.content) < 3_000
    assert "hostile" not in list(site.lake.params.names())


@pytest.mark.parametrize("version", ['"1"', "1.5", "true", "null", "[1]"])
def test_a_version_is_a_number(site: Site, version: str):
    content = f'{{"version": {version}}}'.encode()
    headers = {"Content-Type": "application/json"}
    assert site.api().put("/params/tiny/aliases/odd", content=content, headers=headers).status_code == 422


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_json_that_is_clear_is_read_as_it_is(value: object):
    for escaped in (True, False):
        text = json.dumps(value, ensure_ascii=escaped)
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # a lone surrogate is no UTF-8
            continue
        assert parse_json(encoded) == value


def test_brackets_in_text_are_not_depth():
    assert parse_json(json.dumps({"a": "[" * 100, 'b"': '\\"' + "{" * 100}).encode())
    with pytest.raises(InvalidRequestError):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_lists_of_errors_are_bounded(site: Site):
    api = site.api()
    for body in (
        {"spec": {f"field{number}": "x" * 50 for number in range(2_500)}},
        {"spec": {}, **{f"more{number}": 1 for number in range(5_000)}},
        {"spec": {"family": "x" * 200_000}},
        {"spec": {"colors": list(range(40_000))}},
        {"spec": {"x" * 200_000: 1}},
    ):
        refused = api.put("/params/hostile", json=body)
        assert refused.status_code == 422
        assert len(refused.content) < 10_000


def test_the_schema_tells_headers_and_examples(site: Site):
    schema = site.api("reader").get("/openapi.json").json()
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    for operation in operations:
        responses = operation["responses"]
        assert "WWW-Authenticate" in responses["401"]["headers"]
        assert "Allow" in responses["405"]["headers"]
        assert "Retry-After" in responses["503"]["headers"]
        for status, answer in responses.items():
            for media, content in answer.get("content", {}).items():
                if media == "application/problem+json":
                    assert content["example"]["status"] == int(status)
        if "requestBody" in operation:
            assert "Accept" in responses["415"]["headers"]
            assert "ETag" in responses["412"]["headers"]
    assert "Location" in schema["paths"][f"{API}/params/{{name}}"]["put"]["responses"]["201"]["headers"]
    shard = schema["paths"][f"{API}/datasets/{{name}}/versions/{{selector}}/shards/{{index}}"]["get"]["responses"]
    assert {"206", "304", "307", "416"} <= set(shard)
    assert schema["components"]["schemas"]["PutSpec"]["example"]["spec"]["family"] == "nca"


def answers(site: Site) -> Iterator[httpx.Response]:
    """Of pages and operations, fine and refused, as a browser and as a program."""
    with site.servers[0].client(site.tokens["admin"]) as client:
        for accept in ("text/html", "*/*"):
            for path in (
                "/", "/params/nothing", "/datasets/nothing/1", "/models/nothing/1", "/runs/nothing", "/runs/orphan",
                "/nowhere", "/datasets/grids/9", "/runs", "/params/tiny/7",
                f"{API}/params/nothing", f"{API}/datasets/grids/versions/9", f"{API}/runs/nothing", f"{API}/ready",
                f"{API}/runs/orphan", f"{API}/manifests/{'0' * 64}", f"{API}/tokens",
            ):  # fmt: skip
                yield client.get(path, headers={"Accept": accept})


def test_no_answer_tells_where_the_lake_is(site: Site):
    folder = site.lake.uri
    for answer in answers(site):
        assert folder not in answer.text, answer.url
        assert folder not in str(answer.headers)


def test_the_log_holds_no_token_and_no_control_character(site: Site):
    token = site.tokens["reader"]
    secret = token.rpartition("_")[2]
    server = site.servers[0]
    with server.client(token) as client:
        client.get(f"{API}/params?token={token}")
        client.get(f"{API}/params?token={token.replace('_', '%5F')}")
        client.get(f"/params/{token}")
        client.get(f"{API}/params/{token}/versions/1")
        client.get(f"{API}/params?x=%0d%0aforged: line%1b[31m")
        client.get(f"{API}/params", headers={"Referer": f"http://x/?{token}"})
        client.get(f"{API}/datasets/grids/versions/1/shards/0?last-one=1")
    while "shards/0" not in server.log:
        pass
    assert secret not in server.log
    assert "forged" not in server.log
    assert "\x1b" not in server.log


def test_any_record_is_one_clean_line():
    import logging

    token = "mg_0123456789ab_" + "c" * 64
    record = logging.LogRecord("x", logging.INFO, "", 0, "a %s\nb\r\x1b[31m\u202e %s", (token, "\x00"), None)
    line = SafeFormatter("%(message)s").format(record)
    assert line == "a mg_0123456789ab…\\nb\\r\\x1b[31m\\u202e \\x00"
    assert redacted("img_x and mg%5F0123456789ab%5Fcccc&x=1") == "img_x and mg_0123456789ab…&x=1"
    assert shown("naïve – 漢字") == "naïve – 漢字"
