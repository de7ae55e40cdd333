"""Big objects on their way out: a presigned redirect to S3, a file from disk, or a stream of ranges."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator

from fastapi import Response
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse

from datalake import Store
from datalake.errors import MissingShardError
from orchestration.serve.api.etags import IMMUTABLE
from orchestration.serve.settings import Served

_CHUNK = 4 << 20


def deliver(app: Served, key: str, *, sha256: str, size: int, filename: str, media_type: str) -> Response:
    """The immutable object ``key``. The digest travels along (RFC 9530), so the reader can check what arrives.

    Raises MissingShardError if the object is not there, or its size is another.
    """
    store = app.lake.store
    url = store.presigned_url(key, app.settings.presigned_s, filename) if app.settings.redirect else None
    if url is not None:
        return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
    if not store.exists(key) or store.size(key) != size:
        raise MissingShardError(
            f"object {key} is missing or has another size than {size} bytes: run `morphogen data verify`", key=key
        )
    headers = {
        "ETag": f'"{sha256}"',
        "Cache-Control": IMMUTABLE,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
    }
    if not store.uri.startswith("s3://"):
        return FileResponse(os.path.join(store.uri, key), headers=headers, filename=filename, media_type=media_type)
    headers |= {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{filename}"'}
    return StreamingResponse(_ranges(store, key, size), headers=headers, media_type=media_type)


def _ranges(store: Store, key: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, _CHUNK):
        yield store.get_range(key, start, min(_CHUNK, size - start))
