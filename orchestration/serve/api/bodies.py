"""Request bodies: who sends them is known first, then they must be JSON, strictly read and of bounded depth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from orchestration.errors import InvalidRequestError
from orchestration.serve.auth import writes
from orchestration.serve.problems import UnsupportedMediaError
from orchestration.serve.settings import served

MAX_DEPTH = 32
MAX_DIGITS = 40
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?', re.S)
_BRACKET = re.compile(r"[\[\]{}]")


class JsonRoute(APIRoute):
    """A route that takes a body: 401 and 403 before 415, that before anything about the content."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer

        async def handle(request: Request) -> Response:
            await run_in_threadpool(writes, request, served(request))
            _check_media_type(request)
            return await answer(_Read(request, parse_json(await request.body())))

        return handle


class _Read(Request):
    """A request whose body has been read already."""

    def __init__(self, request: Request, content: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._body = b"read already"
        self._content = content

    async def json(self) -> Any:
        return self._content


def parse_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises InvalidRequestError also for what is JSON but means nothing certain:
    a name twice in one object, NaN, numbers of too many digits, nesting deeper than MAX_DEPTH."""
    try:
        text = body.decode("utf-8")
        _check_depth(text)
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_none)
    except InvalidRequestError:
        raise
    except ValueError as error:  # a decoding error is one, too
        raise InvalidRequestError(f"the body is not JSON in UTF-8 ({str(error)[:100]}): send one object") from error


def _check_media_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not re.fullmatch(r"application/[a-z0-9.!#$&^_-]+\+json", kind):
        raise UnsupportedMediaError(
            f"Content-Type: {kind[:80]!r}; allowed is application/json: send the body as JSON and say so",
            {"Accept": "application/json"},
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaError(
            f"Content-Encoding: {coding[:80]!r}; allowed is identity: send the body as it is",
            {"Accept-Encoding": "identity"},
        )


def _check_depth(text: str) -> None:
    depth = 0
    for match in _BRACKET.finditer(_TEXT.sub("", text)):
        depth += 1 if match[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"the body is nested deeper than {MAX_DEPTH}: send a flatter one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(f"{twice[:80]!r} is there twice in one object: send each name once")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequestError(f"a number of {len(digits)} digits; allowed are {MAX_DIGITS}: send a smaller one")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), -float("inf")):
        raise InvalidRequestError(f"number {digits[:40]} is beyond a 64-bit float: send a smaller one")
    return value


def _none(name: str) -> Any:
    raise InvalidRequestError(f"{name} is no JSON: send a number")
