"""An S3 server in memory that behaves badly on purpose: for what no real server can be made to answer.

``FakeS3`` keeps objects, honours ``If-None-Match`` and lists as S3 does, unless a *behaviour* answers first: a function
from a ``Request`` to a ``Refusal``, or None to let it pass. The behaviours below are those of real servers. What a real
server can show is tested on one (``tests/s3server.py``).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest


@dataclass(frozen=True)
class Request:
    """What was asked; ``key`` is without the bucket, ``query`` decoded."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: Message
    body: bytes

    @property
    def conditional(self) -> bool:
        return self.headers.get("If-None-Match") == "*"


@dataclass(frozen=True)
class Refusal:
    """An answer other than the usual: an error ``code`` with its ``message``, or any ``body`` in place of both."""

    status: int
    code: str = ""
    message: str = "no"
    more: str = ""
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


Behaviour = Callable[[Request], Refusal | None]


def no_conditional_writes(request: Request) -> Refusal | None:
    """Knows no If-None-Match, and says so."""
    if request.conditional:
        more = "<Header>If-None-Match</Header>"
        return Refusal(501, "NotImplemented", "A header you provided implies functionality not implemented", more)
    return None


def clock_is_off(minutes: float) -> Behaviour:
    """Believes that the time is ``minutes`` later than the client says, and refuses for it."""

    def behaviour(_: Request) -> Refusal:
        date = (("Date", formatdate(time.time() + 60 * minutes, usegmt=True)),)
        return Refusal(403, "RequestTimeTooSkewed", "The difference between the times is too large.", headers=date)

    return behaviour


def plain_uploads_only(status: int = 501, code: str = "NotImplemented") -> Behaviour:
    """Knows neither aws-chunked uploads nor checksums in headers of their own."""

    def behaviour(request: Request) -> Refusal | None:
        names = [name.lower() for name in request.headers]
        chunked = "aws-chunked" in (request.headers.get("Content-Encoding") or "") or "x-amz-trailer" in names
        if request.method == "PUT" and (chunked or any(name.startswith("x-amz-sdk-checksum") for name in names)):
            return Refusal(status, code, "Unsupported header 'x-amz-sdk-checksum-algorithm' or aws-chunked encoding")
        return None

    return behaviour


def region_is(region: str, *, told: bool) -> Behaviour:
    """Takes only requests signed for ``region``; with ``told`` says which that is."""

    def behaviour(request: Request) -> Refusal | None:
        signed = (request.headers.get("Authorization") or "") + request.query.get("X-Amz-Credential", "")
        if f"/{region}/s3/" in signed:
            return None
        scope = "Authorization header malformed, unexpected scope: 20261127/us-east-1/s3/aws4_request"
        return Refusal(
            400, "AuthorizationHeaderMalformed", "the region is wrong" if told else scope,
            f"<Region>{region}</Region>" if told else "",
        )  # fmt: skip

    return behaviour


def accepts_key(*keys: str) -> Behaviour:
    """Has let every access key expire but these."""

    def behaviour(request: Request) -> Refusal | None:
        if any(f"Credential={key}/" in (request.headers.get("Authorization") or "") for key in keys):
            return None
        return Refusal(400, "ExpiredToken", "The provided token has expired.")

    return behaviour


def answers(status: int, code: str = "", message: str = "no", *, to: str = "", body: bytes | None = None) -> Behaviour:
    """Gives this answer to every request (of the method ``to``)."""

    def behaviour(request: Request) -> Refusal | None:
        return Refusal(status, code, message, body=body) if request.method == (to or request.method) else None

    return behaviour


def first_times(count: int, behaviour: Behaviour) -> Behaviour:
    """Behaves so to the first ``count`` requests that it would answer, then no more."""
    left = iter(range(count))
    lock = threading.Lock()

    def limited(request: Request) -> Refusal | None:
        refusal = behaviour(request)
        with lock:
            return refusal if refusal is not None and next(left, None) is not None else None

    return limited


class FakeS3:
    """The server, on 127.0.0.1 until closed. ``objects`` by (bucket, key); ``requests`` in the order of arrival.

    ``ignores_conditions``: creates what is there already, as if it had not been asked not to.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, ignores_conditions: bool = False) -> None:
        self.behaviour = behaviour
        self.ignores_conditions = ignores_conditions
        self.objects: dict[tuple[str, str], bytes] = {}
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _serve(self) -> None:
                fake._serve(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def env(self) -> dict[str, str]:
        """The standard AWS variables that point a client at this server."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "only-a-test",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _serve(self, http: BaseHTTPRequestHandler) -> None:
        url = urlsplit(http.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        request = Request(http.command, bucket, key, query, http.headers, _body(http))
        self.requests.append(request)
        refusal = self.behaviour(request) if self.behaviour else None
        if refusal is None:
            with self._lock:
                refusal = self._do(request)
        body = refusal.body
        if body is None:
            text = f"<Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>{refusal.more}"
            body = f"<?xml version='1.0'?><Error>{text}</Error>".encode() if refusal.code else b""
        http.send_response_only(refusal.status)
        for name, value in {
            "Date": formatdate(usegmt=True),
            "Content-Length": str(len(body)),
            "Last-Modified": formatdate(usegmt=True),
            "ETag": '"0"',
            **dict(refusal.headers),
        }.items():
            http.send_header(name, value)
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(body)

    def _do(self, request: Request) -> Refusal:
        place = (request.bucket, request.key)
        if request.method == "PUT":
            if request.conditional and place in self.objects and not self.ignores_conditions:
                return Refusal(412, "PreconditionFailed")
            self.objects[place] = request.body
            return Refusal(200)
        if request.method == "DELETE":
            self.objects.pop(place, None)
            return Refusal(204)
        if not request.key:
            return Refusal(200, body=self._listing(request))
        if place not in self.objects:
            return Refusal(404, "NoSuchKey")
        found = self.objects[place]
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range") or "")
        if not span:
            return Refusal(200, body=found)
        first, last = int(span[1]), min(int(span[2]), len(found) - 1)
        if first >= len(found):
            return Refusal(416, "InvalidRange")
        told = (("Content-Range", f"bytes {first}-{last}/{len(found)}"),)
        return Refusal(206, body=found[first : last + 1], headers=told)

    def _listing(self, request: Request) -> bytes:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        coded: Callable[[str], str] = quote if query.get("encoding-type") == "url" else escape
        rows, groups = [], set()
        for bucket, key in sorted(self.objects):
            if bucket != request.bucket or not key.startswith(prefix) or key <= query.get("start-after", ""):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                groups.add(f"{prefix}{head}{delimiter}")
            else:
                size = len(self.objects[bucket, key])
                rows.append(
                    f"<Contents><Key>{coded(key)}</Key><LastModified>{formatdate(usegmt=True)}</LastModified>"
                    f"<ETag>0</ETag><Size>{size}</Size></Contents>"
                )
        rows += [f"<CommonPrefixes><Prefix>{coded(group)}</Prefix></CommonPrefixes>" for group in sorted(groups)]
        encoding = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
        return (
            f"<?xml version='1.0'?><ListBucketResult><Name>{request.bucket}</Name><Prefix>{coded(prefix)}</Prefix>"
            f"<KeyCount>{len(rows)}</KeyCount><IsTruncated>false</IsTruncated>{encoding}{''.join(rows)}"
            "</ListBucketResult>"
        ).encode()


def _body(http: BaseHTTPRequestHandler) -> bytes:
    """The request's body, taken out of aws-chunked encoding."""
    data = http.rfile.read(int(http.headers.get("Content-Length") or 0))
    if "aws-chunked" not in (http.headers.get("Content-Encoding") or ""):
        return data
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            break
        body, data = body + data[:length], data[length + 2 :]
    return body


@contextmanager
def fake_s3(
    environment: pytest.MonkeyPatch, behaviour: Behaviour | None = None, *, ignores_conditions: bool = False
) -> Iterator[FakeS3]:
    """A running server that the environment's AWS variables, and no other AWS settings, point at."""
    server = FakeS3(behaviour, ignores_conditions=ignores_conditions)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REQUEST_CHECKSUM_CALCULATION"):
        environment.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        environment.setenv(name, "/dev/null")
    for name, value in server.env().items():
        environment.setenv(name, value)
    try:
        yield server
    finally:
        server.close()
