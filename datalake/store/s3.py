"""The store on S3 and what speaks its protocol, through boto3.

Create-if-absent is one ``PutObject`` with ``If-None-Match: *``; never a conditional multipart completion, which is
not atomic on every server. A failed PUT is "unknown", not "did not happen": it is tried again, conditionally, so the
worst that a lost response can do is make the retry meet its own object (``store.ensure`` tells).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto_errors
from urllib3.exceptions import HTTPError

from datalake.clock import Ambient
from datalake.errors import (
    BucketNotFoundError,
    CredentialsError,
    DatalakeError,
    LakePathError,
    ObjectTooLargeError,
    StoreUnavailableError,
)
from datalake.events import tell
from datalake.names import check_key, check_prefix, is_key
from datalake.store.content import Content, Pieces
from datalake.store.interface import ObjectInfo, missing
from datalake.store.retry import RetryBudget, RetryPolicy
from datalake.store.s3_client import is_aws, make_client
from datalake.store.verdict import WriteGuard

_T = TypeVar("_T")
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_TAKEN = {"PreconditionFailed", "412"}
_TOO_LARGE = {"EntityTooLarge", "413"}
_BUSY = {
    "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "RequestTimeoutException", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequests", "409", "429",
}  # fmt: skip
# A connection refused, reset or timed out, or a body cut off half-way: whether the call took effect is unknown.
# urllib3's own error comes through where botocore reads the body of an error answer to GetObject.
_BROKEN = (boto_errors.ConnectionError, boto_errors.HTTPClientError, boto_errors.IncompleteReadError, HTTPError)
_REFUSED = {
    "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId",
    "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "Unauthorized", "401", "403",
}  # fmt: skip


class S3Store:
    """Objects below ``s3://bucket/prefix``. See ``store.Store`` for the methods.

    Endpoint, region and credentials come from the standard AWS settings of the process that uses the store
    (``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL`` included); the region is us-east-1 if none is set.
    """

    def __init__(self, uri: str, ambient: Ambient | None = None, retry: RetryPolicy | None = None) -> None:
        parts = urlsplit(uri)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        if not self._bucket or parts.query or parts.fragment or "@" in self._bucket:
            raise LakePathError("the lake's address is not s3://bucket/prefix; credentials go in AWS_* variables")
        if self._prefix:
            check_key(self._prefix)
        self._ambient = ambient or Ambient()
        self._retry = retry or RetryPolicy()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._client_of: tuple[int, Any] | None = None
        self._budget = RetryBudget()
        self._guard = WriteGuard()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("_bucket", "_prefix", "_ambient", "_retry")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        """List one key with few retries. HEAD would be cheaper, but carries no error code to tell causes apart."""
        self._answer(
            lambda: self._client().list_objects_v2(Bucket=self._bucket, Prefix=self._full(""), MaxKeys=1),
            "",
            attempts=3,
        )

    def put_if_absent(self, key: str, data: Content) -> bool:
        full = self._full(check_key(key))
        self._guard.check(self, key)

        def put() -> bool:
            body = data.open() if isinstance(data, Pieces) else data
            try:
                self._client().put_object(Bucket=self._bucket, Key=full, Body=body, IfNoneMatch="*")
            except boto_errors.ClientError as error:
                if _code(error) in _TAKEN:
                    return False
                if _code(error) in _TOO_LARGE:
                    raise ObjectTooLargeError(
                        f"object {key} of lake {self.uri}: the store takes no {len(data)} bytes in one request "
                        f"({_code(error)}): raise its limit, or write smaller objects"
                    ) from error
                raise
            return True

        return self._answer(put, key)

    def replace(self, key: str, data: bytes) -> None:
        full = self._full(check_key(key))
        self._guard.check(self, key)
        self._answer(lambda: self._client().put_object(Bucket=self._bucket, Key=full, Body=data), key)

    def get(self, key: str) -> bytes:
        full = self._full(check_key(key))
        return self._answer(lambda: self._client().get_object(Bucket=self._bucket, Key=full)["Body"].read(), key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        full = self._full(check_key(key))
        if length <= 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"

        def read() -> bytes:
            try:
                return self._client().get_object(Bucket=self._bucket, Key=full, Range=span)["Body"].read()
            except boto_errors.ClientError as error:
                if _code(error) in {"InvalidRange", "416"}:
                    return b""
                raise

        return self._answer(read, key)

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def size(self, key: str) -> int:
        size = self._head(key)
        if size is None:
            raise missing(self.uri, key)
        return size

    def _head(self, key: str) -> int | None:
        full = self._full(check_key(key))

        def head() -> int | None:
            try:
                return self._client().head_object(Bucket=self._bucket, Key=full)["ContentLength"]
            except boto_errors.ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise

        return self._answer(head, key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        check_prefix(prefix)
        pages = self._pages(prefix, limit, StartAfter=self._full(start_after) if start_after else "")
        cut = len(self._full(""))
        # Sorted here because not every server sorts by whole key (SeaweedFS goes folder by folder).
        keys = (item["Key"][cut:] for page in pages for item in page.get("Contents", ()))
        return iter(sorted(key for key in keys if is_key(key)))

    def infos(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        items = [item for page in self._pages(prefix) for item in page.get("Contents", ())]
        cut = len(self._full(""))
        infos = (ObjectInfo(item["Key"][cut:], item["Size"], item["LastModified"]) for item in items)
        return iter(sorted(info for info in infos if is_key(info.key)))

    def leftovers(self) -> Iterator[ObjectInfo]:
        return iter(())  # every write is one request: it is there or it is not

    def discard(self, leftover: str) -> None:
        del leftover  # there are none

    def children(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        cut = len(self._full(prefix))
        pages = self._pages(prefix, Delimiter="/")
        names = (item["Prefix"][cut:-1] for page in pages for item in page.get("CommonPrefixes", ()))
        return iter(sorted(name for name in names if is_key(name)))

    def delete(self, key: str) -> None:
        full = self._full(check_key(key))
        self._answer(lambda: self._client().delete_object(Bucket=self._bucket, Key=full), key)

    def presigned_url(self, key: str, seconds: int, filename: str) -> str | None:
        attached = f'attachment; filename="{filename}"'
        wanted = {"Bucket": self._bucket, "Key": self._full(check_key(key)), "ResponseContentDisposition": attached}
        return self._client().generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds)

    def arrow_filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import S3FileSystem

        meta = self._client().meta
        settings: dict[str, Any] = {"region": meta.region_name}
        endpoint = urlsplit(meta.endpoint_url)
        if not is_aws(endpoint.hostname):
            settings |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        if found := boto3.session.Session().get_credentials():
            frozen = found.get_frozen_credentials()
            settings |= {"access_key": frozen.access_key, "secret_key": frozen.secret_key}
            settings |= {"session_token": frozen.token} if frozen.token else {}
        return S3FileSystem(**settings), f"{self._bucket}/{self._prefix}".rstrip("/")

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _client(self) -> Any:
        """This process's client: safe across threads, but not across a fork."""
        with self._lock:
            if self._client_of is None or self._client_of[0] != os.getpid():
                self._client_of = (os.getpid(), make_client())
            return self._client_of[1]

    def _pages(self, prefix: str, limit: int | None = None, **arguments: str) -> Sequence[Any]:
        wanted: dict[str, Any] = {name: value for name, value in arguments.items() if value}
        if limit is not None:
            wanted["PaginationConfig"] = {"MaxItems": limit, "PageSize": min(limit, 1000)}

        def read() -> Sequence[Any]:
            pager = self._client().get_paginator("list_objects_v2")
            return list(pager.paginate(Bucket=self._bucket, Prefix=self._full(prefix), **wanted))

        return self._answer(read, prefix)

    def _answer(self, call: Callable[[], _T], key: str, attempts: int = 0) -> _T:
        """Run ``call``, again if that may help, and translate what it raises at last. Never repeats a secret."""
        attempts = attempts or self._retry.attempts
        for attempt in range(attempts):
            try:
                result = call()
            except boto_errors.ClientError as error:
                if not _may_pass(error) or attempt == attempts - 1 or not self._budget.take():
                    raise self._translated(error, key) from error
                reason = _code(error)
            except _BROKEN as error:
                if attempt == attempts - 1 or not self._budget.take():
                    raise self._unreachable(error, key) from error
                reason = type(error).__name__
            except (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError) as error:
                raise self._no_credentials() from error
            except boto_errors.ParamValidationError as error:
                raise LakePathError(f"lake {self.uri}: {' '.join(str(error).split())}") from error
            except boto_errors.BotoCoreError as error:
                raise self._unreachable(error, key) from error
            else:
                self._budget.succeeded()
                return result
            tell("store_retry", level=logging.WARNING, key=key, attempt=attempt + 1, reason=reason)
            self._ambient.pause(attempt, self._retry.base, self._retry.cap)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _translated(self, error: boto_errors.ClientError, key: str) -> DatalakeError:
        code = _code(error)
        if code == "NoSuchBucket":
            return BucketNotFoundError(
                f"bucket {self._bucket!r} does not exist: create it, or correct the lake {self.uri}"
            )
        if code in _REFUSED:
            return CredentialsError(
                f"lake {self.uri}: the store refused the credentials ({code}): "
                f"check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
            )
        if code in _ABSENT:
            return missing(self.uri, key)
        return self._unreachable(error, key)

    def _unreachable(self, error: Exception, key: str) -> StoreUnavailableError:
        what = f"object {key} of lake {self.uri}" if key else f"lake {self.uri}"
        reason = " ".join(str(error).split())
        settles = "; whether a write in flight happened is unknown, and running again settles it" if key else ""
        return StoreUnavailableError(
            f"{what}: the store did not answer ({type(error).__name__}: {reason}): check AWS_ENDPOINT_URL_S3 and the "
            f"network, then run again{settles}"
        )

    def _no_credentials(self) -> CredentialsError:
        return CredentialsError(
            f"lake {self.uri}: no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )


def _code(error: boto_errors.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _may_pass(error: boto_errors.ClientError) -> bool:
    """Whether asking again may help: the server was busy or broken, not the request wrong."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status == 429 or _code(error) in _BUSY
