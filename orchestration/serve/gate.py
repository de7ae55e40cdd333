"""What every request passes first: no path tricks, no oversized or endless body; and headers on every answer.

Written against ASGI, not as a FastAPI dependency, because it must also see requests that match no route, and because
it counts body bytes while they arrive.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestration.errors import InvalidRequestError
from orchestration.serve.acceptance import BusyError
from orchestration.serve.problems import BodyTimeoutError, HeadersTooLargeError, TooLargeError, named_problem

HEAD_ONLY = "morphogen.head"  # in a scope whose client wants no body
MAX_HEADERS = 32_768  # bytes of all together
MAX_TARGET = 8_192  # bytes of path and query
# Encoded slashes, backslashes, dots-only segments, control characters, and a percent sign that escapes nothing.
_TRICKS = re.compile(
    rb"%2f|%5c|\\|%[01][0-9a-f]|%7f|[\x00-\x20\x7f-\xff]|%(?![0-9a-f]{2})|(?:^|/)(?:\.|%2e){1,2}(?=/|$)|//", re.I
)

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Gate:
    """``hosts``: the only Host names answered (None: any), which keeps other sites' pages off an open local server."""

    def __init__(
        self, app: ASGIApp, max_body: int, body_s: float, max_requests: int, hosts: Sequence[str] | None
    ) -> None:
        self._app = app
        self._max_body = max_body
        self._body_s = body_s
        self._max_requests = max_requests
        self._hosts = hosts
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if (refusal := self._refusal(scope, headers)) is not None:
            made = named_problem(refusal, scope["path"])
            made.headers["Connection"] = "close"  # its body is not read
            await made(scope, receive, answer)
            return
        if scope["method"] == "HEAD":  # answered as GET; the server sends no body, knowing what was asked
            scope = {**scope, "method": "GET", HEAD_ONLY: True}
        if int(headers.get("content-length", "0")) > self._max_body:
            await named_problem(self._too_large(), scope["path"])(scope, receive, answer)
            return
        try:
            body = await self._read(receive)
        except (TooLargeError, BodyTimeoutError) as error:
            await named_problem(error, scope["path"])(scope, receive, answer)
            return
        if body is None:
            return
        if self._requests >= self._max_requests:
            busy = BusyError(f"{self._requests} requests are at work: try again in a moment", 2)
            await named_problem(busy, scope["path"])(scope, receive, answer)
            return
        replayed = False

        async def again() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        self._requests += 1
        try:
            await self._app(scope, again, answer)
        finally:
            self._requests -= 1

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if the client has left."""
        body, more = b"", True
        try:
            async with asyncio.timeout(self._body_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._max_body:
                        raise self._too_large()
        except TimeoutError as error:
            raise BodyTimeoutError(f"the body did not arrive within {self._body_s:g} s: send it faster") from error
        return body

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._max_body} bytes: send less")

    def _refusal(self, scope: Scope, headers: Headers) -> Exception | None:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        if len(raw) + len(scope["query_string"]) > MAX_TARGET:
            return TooLargeError(f"the path and query are larger than {MAX_TARGET} bytes: send less")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return HeadersTooLargeError(f"the headers are larger than {MAX_HEADERS} bytes: send less")
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy in front may take the other for the body's end, and what follows for a request (RFC 9112, 6.1).
            return InvalidRequestError("content-length: the body is also sent in chunks: send one of the two headers")
        if _TRICKS.search(raw):
            return InvalidRequestError(
                "the path holds an encoded slash, a dot segment, an empty segment or a control character: "
                "names are letters, digits and . _ -"
            )
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            return InvalidRequestError(
                f"host: this server has no tokens and answers only to {', '.join(self._hosts)}: "
                "create a token to serve others"
            )
        return None


def _host(header: str) -> str:
    """The Host header without its port, in lower case."""
    return re.sub(r":\d*$", "", header).lower()
