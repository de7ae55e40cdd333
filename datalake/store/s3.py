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
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto_errors

from datalake.clock import System
from datalake.errors import DatalakeError, LakePathError, StoreRefusedError
from datalake.events import log_event
from datalake.names import check_key, check_prefix, is_key
from datalake.store.addresses import S3Address, parse_address
from datalake.store.conformance import WriteGuard
from datalake.store.content import Content, Pieces
from datalake.store.interface import ObjectInfo, missing
from datalake.store.retry import RetryBudget, RetryDeadline, RetryPolicy, repeat
from datalake.store.s3_client import is_aws, make_client
from datalake.store.s3_errors import (
    ABSENT,
    OUT_OF_RANGE,
    S3_FAILURES,
    TAKEN,
    Asked,
    code_of,
    has_newer_credentials,
    is_ours,
    may_pass,
    named_error,
    no_s3_server,
    region_told,
    tells_nothing,
)

_T = TypeVar("_T")


class S3Store:
    """Objects below ``s3://bucket/prefix``. See ``store.Store`` for the methods.

    Endpoint, region and credentials come from the standard AWS settings of the process that uses the store
    (``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL`` included); the region is us-east-1 if none is set.
    """

    def __init__(self, uri: str, system: System | None = None, retry: RetryPolicy | None = None) -> None:
        address = parse_address(uri)
        if not isinstance(address, S3Address):
            raise LakePathError(f"lake {uri!r} is not s3://bucket/prefix")
        self._bucket, self._prefix = address
        self._region: str | None = None  # the bucket's, where the store said that it is another than the settings'
        self._system = system or System()
        self._retry = retry or RetryPolicy()
        self._deadline: RetryDeadline | None = None
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._client_of: tuple[int, Any] | None = None
        self._budget = RetryBudget()
        self._guard = WriteGuard()

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("_bucket", "_prefix", "_region", "_system", "_retry", "_deadline")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def within(self, deadline: RetryDeadline) -> S3Store:
        """The same store, whose calls go on being repeated within ``deadline`` while the server does not answer."""
        store = object.__new__(S3Store)
        store.__dict__ = self.__dict__ | {"_deadline": deadline}
        return store

    @property
    def uri(self) -> str:
        return S3Address(self._bucket, self._prefix).uri

    def check(self) -> None:
        """List one key with few retries. HEAD would be cheaper, but carries no error code to tell causes apart."""
        found = self._answer(
            lambda: self._client().list_objects_v2(Bucket=self._bucket, Prefix=self._full(""), MaxKeys=1),
            "",
            attempts=3,
        )
        if not {"Name", "KeyCount", "IsTruncated"} & found.keys():  # a page of a web server, which happens to be XML
            raise no_s3_server(self._asked(""))

    def put_if_absent(self, key: str, data: Content) -> bool:
        check_key(key)
        proven = self._guard.check(self, key)
        created = self.create(key, data)
        if not proven:
            # The same bytes once more, so that a store which overwrites does no harm by it.
            self._guard.prove(self, self._system, refuses=not (created and self.create(key, data)))
        return created

    def create(self, key: str, data: Content) -> bool:
        """``put_if_absent`` as a store that is no lake has it: nothing is asked or kept of what the store can do."""

        def put() -> bool:
            body = data.open() if isinstance(data, Pieces) else data
            try:
                self._client().put_object(Bucket=self._bucket, Key=self._full(key), Body=body, IfNoneMatch="*")
            except boto_errors.ClientError as error:
                if code_of(error) in TAKEN:
                    return False
                raise
            return True

        return self._answer(put, key, conditional=True, size=len(data))

    def replace(self, key: str, data: bytes) -> None:
        full = self._full(check_key(key))
        self._guard.check(self, key)
        self._answer(lambda: self._client().put_object(Bucket=self._bucket, Key=full, Body=data), key, size=len(data))

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
                if code_of(error) in OUT_OF_RANGE:
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
                if code_of(error) in ABSENT:
                    return None
                if tells_nothing(error):
                    self._client().list_objects_v2(Bucket=self._bucket, Prefix=full, MaxKeys=1)  # says why
                raise

        return self._answer(head, key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        check_prefix(prefix)
        pages = self._pages(prefix, limit, StartAfter=self._full(start_after) if start_after else "")
        # Sorted here because not every server sorts by whole key (SeaweedFS goes folder by folder).
        keys = (self._own(item["Key"]) for page in pages for item in page.get("Contents", ()))
        return iter(sorted(key for key in keys if is_key(key)))

    def infos(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        items = [item for page in self._pages(prefix) for item in page.get("Contents", ())]
        infos = (ObjectInfo(self._own(item["Key"]), item["Size"], item["LastModified"]) for item in items)
        return iter(sorted(info for info in infos if is_key(info.key)))

    def everything(self) -> dict[str, int]:
        """Name and size of all that lies below the prefix, also of what can be no object of a lake."""
        items = [item for page in self._pages("") for item in page.get("Contents", ())]
        found = {self._own(item["Key"]): item["Size"] for item in items}
        found.pop("", None)  # by which a console marks a folder
        return found

    def leftovers(self) -> Iterator[ObjectInfo]:
        return iter(())  # every write is one request: it is there or it is not

    def discard(self, leftover: str) -> None:
        del leftover  # there are none

    def children(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        pages = self._pages(prefix, Delimiter="/")
        names = (
            self._own(item["Prefix"])[len(prefix) : -1] for page in pages for item in page.get("CommonPrefixes", ())
        )
        return iter(sorted(name for name in names if is_key(name)))

    def delete(self, key: str) -> None:
        full = self._full(check_key(key))
        self._answer(lambda: self._client().delete_object(Bucket=self._bucket, Key=full), key)

    def presigned_url(self, key: str, seconds: int, filename: str) -> str | None:
        attached = f'attachment; filename="{filename}"'
        wanted = {
            "Bucket": self._bucket,
            "Key": self._full(check_key(key)),
            "ResponseContentDisposition": attached,
        }
        return self._answer(
            lambda: self._client().generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds), key
        )

    def arrow_filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import S3FileSystem

        meta = self._client().meta
        settings: dict[str, Any] = {"region": meta.region_name}
        endpoint = urlsplit(meta.endpoint_url)
        if not is_aws(endpoint.hostname):
            settings |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        if frozen := self._answer(_credentials, ""):
            settings |= {"access_key": frozen.access_key, "secret_key": frozen.secret_key}
            settings |= {"session_token": frozen.token} if frozen.token else {}
        return S3FileSystem(**settings), f"{self._bucket}/{self._prefix}".rstrip("/")

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _own(self, full: str) -> str:
        """The lake's key of a listed one. Raises StoreRefusedError if it does not begin as was asked for."""
        start = self._full("")
        if not full.startswith(start):
            raise StoreRefusedError(
                f"lake {self.uri}: the store lists {full!r} when asked for {start!r}, so it changes characters of the "
                "prefix: use one of A-Z a-z 0-9 . _ - and / on this store"
            )
        return full[len(start) :]

    def _client(self) -> Any:
        """This process's client: safe across threads, but not across a fork."""
        with self._lock:
            if self._client_of is None or self._client_of[0] != os.getpid():
                client = make_client(self._region)
                client.meta.events.register("needs-retry.s3", self._note_region)
                self._client_of = (os.getpid(), client)
            return self._client_of[1]

    def _forget(self, client: Any) -> None:
        """Have the next call make a client with newly found credentials, unless another thread has done so already."""
        with self._lock:
            if self._client_of is not None and self._client_of[1] is client:
                self._client_of = None

    def _note_region(self, response: Any = None, operation: Any = None, **_: Any) -> None:
        """Remember the region that a refusal names (botocore repeats the request there by itself): links and Arrow
        must be signed for it, too."""
        if response is None or not ("Error" in response[1] or operation.name == "HeadBucket"):
            return
        told = region_told(response[1])
        with self._lock:
            if told and self._client_of is not None and told != self._client_of[1].meta.region_name:
                self._region, self._client_of = told, None

    def _pages(self, prefix: str, limit: int | None = None, **arguments: str) -> Sequence[Any]:
        wanted: dict[str, Any] = {name: value for name, value in arguments.items() if value}
        if limit is not None:
            wanted["PaginationConfig"] = {"MaxItems": limit, "PageSize": min(limit, 1000)}

        def read() -> Sequence[Any]:
            pager = self._client().get_paginator("list_objects_v2")
            return list(pager.paginate(Bucket=self._bucket, Prefix=self._full(prefix), **wanted))

        return self._answer(read, prefix)

    def _answer(
        self, call: Callable[[], _T], key: str, attempts: int = 0, conditional: bool = False, size: int = 0
    ) -> _T:
        """Run ``call``, again if that may help, and translate what it raises at last. Never repeats a secret."""
        policy = replace(self._retry, attempts=attempts) if attempts else self._retry
        renewed = False

        def renewing() -> _T:
            nonlocal renewed
            client = self._client()
            try:
                return call()
            except S3_FAILURES as error:
                if renewed or not (is_ours(error) and has_newer_credentials(error)):
                    raise
                renewed = True
                self._forget(client)
                return call()

        def note(attempt: int, error: Exception) -> None:
            reason = code_of(error) or type(error).__name__
            log_event("store_retry", level=logging.WARNING, key=key, attempt=attempt, reason=reason)

        def ask() -> _T:
            try:
                return repeat(renewing, _asks_again, policy, self._budget, self._system, note)
            except S3_FAILURES as error:
                if not is_ours(error):
                    raise
                raise self._named(error, key, conditional, size) from error

        return self._deadline.retry_until(ask) if self._deadline else ask()

    def _named(self, error: Exception, key: str, conditional: bool, size: int) -> DatalakeError:
        return named_error(error, self._asked(key, conditional, size))

    def _asked(self, key: str, conditional: bool = False, size: int = 0) -> Asked:
        meta = self._client().meta
        return Asked(
            uri=self.uri,
            bucket=self._bucket,
            key=key,
            region=meta.region_name,
            endpoint=meta.endpoint_url,
            now=self._system.clock(),
            conditional=conditional,
            size=size,
        )


def _asks_again(error: BaseException) -> bool:
    return isinstance(error, S3_FAILURES) and is_ours(error) and may_pass(error)


def _credentials() -> Any:
    """The credentials of this moment, None if there are none."""
    found = boto3.session.Session().get_credentials()
    return found.get_frozen_credentials() if found else None
