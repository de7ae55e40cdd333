"""What the server refuses with 4xx, and never with more: path tricks, huge and malformed requests."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.serve.conftest import API, Site
from tests.serve.lake_content import SPEC


def raw(site: Site, request: bytes, *, cut: bool = False) -> int:
    """The status of a request sent byte by byte as it is; 0 if the server only hung up. ``cut``: we hang up, too."""
    address = urlsplit(site.servers[0].url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        try:
            connection.sendall(request)
            if cut:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # the server hung up in the middle of what it will not read
            pass
        answer = b""
        try:
            while part := connection.recv(65_536):
                answer += part
        except ConnectionError:
            pass
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def get(site: Site, target: bytes) -> int:
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {site.tokens['admin']}\r\nConnection: close\r\n\r\n"
    return raw(site, b"GET " + target + b" HTTP/1.1\r\n" + head.encode())


TRICKS = [
    b"/../../etc/passwd",
    b"/api/v1/params/../../../etc/passwd",
    b"/api/v1/params/..%2f..%2fetc%2fpasswd",
    b"/api/v1/params/%2e%2e/%2e%2e/etc/passwd",
    b"/api/v1/params/.%2e",
    b"/api/v1/params/tiny%2Fversions%2F1",
    b"/api/v1/params/tiny%5c..%5c",
    b"/api/v1/params/tiny%00",
    b"/api/v1/params/tiny%0d%0aX-Injected:%201",
    b"/api/v1/params/%7f",
    b"/api/v1/params/tiny%",
    b"/api/v1/params/tiny%zz",
    b"/api/v1//params",
    b"//evil.example/",
    b"/api/v1/params/.hidden",
    b"/api/v1/params/%F0%9F%A6%A0",
    b"/api/v1/params/%FF%FE",
    b"/api/v1/params/" + b"x" * 129,
    b"/api/v1/params/" + b"x" * 9_000,
    b"/api/v1/params/" + b"x" * 1_000_000,
    b"/api/v1/params/tiny?limit=" + b"1" * 1_000_000,
    b"/api/v1/params/tiny/versions/0",
    b"/api/v1/params/tiny/versions/-1",
    b"/api/v1/params/tiny/versions/99999999999999999999",
    b"/api/v1/manifests/../../x",
    b"/api/v1/manifests/" + b"g" * 64,
    b"/api/v1/datasets/grids/versions/1/shards/999999",
    b"/api/v1/datasets/grids/versions/1/shards/99999999999999999999999",
    b"/api/v1/models/language-model/versions/1/files/..%2fconfig.json",
    b"/api/v1/models/language-model/versions/1/files/nothing",
    b"/datasets/grids/1/sequences?first=-1",
    b"/datasets/grids/1/sequences?first=99999999999999999999999",
    b"/params/tiny?before=1&after=99",
    b"/params/..%2f",
    b"/templates/base.html",
]


@pytest.mark.parametrize("target", TRICKS, ids=lambda target: target[:60].decode())
def test_path_tricks_are_refused(site: Site, target: bytes):
    assert 400 <= get(site, target) < 500


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /api/v1/params HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /api/v1/par\x00ams HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /api/v1/params HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\x00b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" * 10,
        b"PUT /api/v1/params/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"PUT /api/v1/params/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"PUT /api/v1/params/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\nx",
        b"BREW /api/v1/params HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
    ids=["huge header", "nul in target", "nul in header", "tls", "negative length", "huge length", "cut chunk", "BREW"],
)
def test_malformed_requests_are_refused(site: Site, request_: bytes):
    status = raw(site, request_, cut=True)
    assert status == 0 or 400 <= status < 500


BODIES = {
    "not json": b"{",
    "array": b"[]",
    "deep": b"[" * 100_000,
    "deep spec": b'{"spec":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "nan": b'{"spec": {"colors": NaN}}',
    "infinity": b'{"spec": {"temperature": 1e999}}',
    "huge integer": b'{"spec": {"colors": ' + b"9" * 5_000 + b"}}",
    "surrogate": b'{"spec": {"family": "\\ud800"}}',
    "surrogate message": b'{"spec": {}, "message": "\\ud800"}',
    "not utf-8": b'{"spec": {"family": "\xff"}}',
    "nul": b'{"spec": {}, "message": "\\u0000"}',
    "duplicate": b'{"spec": 1, "spec": 2}',
    "1 MB name": b'{"spec": {"' + b"x" * 1_000_000 + b'": 1}}',
    "1 MB of spaces": b" " * 1_000_000,
    "empty": b"",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_malformed_bodies_are_refused(site: Site, body: bytes):
    api = site.api("writer")
    headers = {"Content-Type": "application/json"}
    refused = api.put("/params/hostile", content=body, headers=headers)
    assert 400 <= refused.status_code < 500
    assert refused.headers["content-type"] == "application/problem+json"
    assert len(refused.content) < 10_000, "an error need not repeat what was sent"
    chunked = api.put("/params/hostile", content=(part for part in (body[:10], body[10:])), headers=headers)
    assert chunked.status_code == refused.status_code
    assert "hostile" not in list(site.lake.store.children("params/"))


def test_every_error_is_a_problem_and_every_answer_guarded(site: Site):
    api = site.api("admin")
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/params/nothing", 404),
        ("POST", "/params/tiny", 405),
        ("DELETE", "/params/tiny", 405),
        ("GET", "/params?limit=x", 422),
        ("GET", "/params", 200),
        ("HEAD", "/params", 200),
        ("HEAD", "/params/nothing", 404),
    ):
        answer = api.request(method, path)
        assert answer.status_code == status, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        if status >= 400 and method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json"
            document = answer.json()
            assert document["status"] == status
            assert document["instance"] == API + path.partition("?")[0]
            assert document["type"].startswith("urn:morphogen:error:")
        if method == "HEAD":
            assert answer.content == b""
        if status == 405:
            assert "GET" in answer.headers["allow"]


def test_a_write_needs_json(site: Site):
    body = json.dumps({"spec": SPEC}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = site.api().put("/params/hostile", content=body, headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500, kind
