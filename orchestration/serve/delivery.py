"""Big objects on their way out: a presigned redirect to S3, a file from disk, or a stream of ranges."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from fastapi import Response
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse

from datalake import Store
from datalake.errors import MissingShardError
from orchestration.serve.etags import IMMUTABLE
from orchestration.serve.settings import Served

_CHUNK = 4 << 20


def deliver(app: Served, key: str, *, sha256: str, size: int, filename: str, media_type: str) -> Response:
    """The immutable object ``key``. The digest travels along (RFC 9530), so the reader can check what arrives.

    Raises MissingShardError if the object is not there, or its size is another.
    """
    store = app.lake.store
    if app.settings.redirect and store.uri.startswith("s3://"):
        url = presigned_url(store, key, app.settings.presigned_s, filename)
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


def presigned_url(store: Store, key: str, seconds: int, filename: str) -> str:
    """A URL that answers with one object of an S3 store for ``seconds``, made without asking the store."""
    parts = urlsplit(store.uri)
    prefix = parts.path.strip("/")
    return _client().generate_presigned_url(
        "get_object",
        Params={
            "Bucket": parts.netloc,
            "Key": f"{prefix}/{key}" if prefix else key,
            "ResponseContentDisposition": f'attachment; filename="{filename}"',
        },
        ExpiresIn=seconds,
    )


def _client() -> Any:
    """A client for signing only; elsewhere than at AWS, buckets are reached by path."""
    session = boto3.session.Session()
    region = session.region_name or "us-east-1"
    client = session.client("s3", region_name=region, config=Config(signature_version="s3v4"))
    if (urlsplit(client.meta.endpoint_url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    by_path = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    return session.client("s3", region_name=region, config=by_path)
