"""Big objects on their way out: a presigned redirect to S3, or a stream of ranges; whole, in part, or not at all."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from datalake import Store
from datalake.errors import MissingShardError
from orchestration.serve.api.etags import IMMUTABLE, has_already
from orchestration.serve.gate import HEAD_ONLY
from orchestration.serve.problems import RangeNotSatisfiableError
from orchestration.serve.settings import Served

_CHUNK = 4 << 20
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))", re.I)


def deliver(
    request: Request, app: Served, key: str, *, sha256: str, size: int, filename: str, media_type: str
) -> Response:
    """The immutable object ``key``, or what of it the request's Range asks for. The digest travels along (RFC 9530), so
    the reader can check what arrives. A reader that has it (If-None-Match) gets 304 and nothing else.

    Raises RangeNotSatisfiableError, and MissingShardError if the object is not there, or its size is another.
    """
    store, tag = app.lake.store, f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": IMMUTABLE, "Accept-Ranges": "bytes"}
    if has_already(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    url = store.presigned_url(key, app.settings.presigned_s, filename) if app.settings.redirect else None
    if url is not None:
        return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
    if not store.exists(key) or store.size(key) != size:
        raise MissingShardError(
            f"object {key} is missing or has another size than {size} bytes: run `morphogen data verify`", key=key
        )
    only_if = request.headers.get("if-range", tag)
    part = byte_range(request.headers.get("range"), size) if only_if == tag else None
    first, end = part or (0, size)
    headers |= {
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Content-Length": str(end - first),
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    status = 200 if part is None else 206
    if request.scope.get(HEAD_ONLY):
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_pieces(store, key, first, end), status, headers, media_type)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[first, end) that a Range header asks for; None to send everything: no header, another unit, several ranges, or
    one that is malformed (RFC 9110, 14.2). Raises RangeNotSatisfiableError for one that begins behind the end."""
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None:
        return None
    if match[3] is not None:
        first, end = max(0, size - int(match[3])), size
    else:
        first, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < first:
            return None
    if first >= size or first == end:
        raise RangeNotSatisfiableError(size)
    return first, end


def _pieces(store: Store, key: str, first: int, end: int) -> Iterator[bytes]:
    for start in range(first, end, _CHUNK):
        yield store.get_range(key, start, min(_CHUNK, end - start))
