"""Addresses of lakes: a folder, or ``s3://bucket/prefix``; what looks like either but is mistyped is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from datalake.errors import LakePathError

MAX_PREFIX = 300
"""Bytes of UTF-8 that a lake's prefix may take of the 1,024 of an S3 key; the others are for the lake's own keys."""

_S3 = re.compile(r"s3://", re.IGNORECASE)
_FILE = re.compile(r"file://(?=/(?!/))", re.IGNORECASE)
# A scheme and a slash; a scheme that people use for stores, with or without one; or s3 with its colon mistyped.
_SCHEME = re.compile(
    r"(?i)[a-z][a-z0-9+.-]*:/|(s3[an]?|gs|gcs|az|abfss?|wasbs?|hdfs|https?|ftp|file|oss|cos|r2|b2):|s3[an]?[^a-z0-9]?//"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OPTIONS = re.compile(r"\?[A-Za-z_-]+=")


class S3Address(NamedTuple):
    """A bucket and the prefix of a lake's keys in it, without slashes at its ends; "" is the whole bucket."""

    bucket: str
    prefix: str

    @property
    def uri(self) -> str:
        """The address, always written the same way. The prefix stands as it is: nothing in it is an escape."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def parse_address(uri: str) -> S3Address | Path:
    """What a lake's address means. Raises LakePathError."""
    if _S3.match(uri):
        return _s3_address(uri[len("s3://") :])
    path = _FILE.sub("", uri, count=1)
    if not uri or "\0" in uri:
        raise LakePathError(f"lake {uri!r} is not an address: give a folder or s3://bucket/prefix")
    if path == uri and ("://" in uri or _SCHEME.match(uri)):
        scheme = re.split(r"[^A-Za-z0-9+-]", uri, maxsplit=1)[0][:20]  # no more: what follows may be a secret
        raise LakePathError(
            f"the lake's address begins with {scheme!r} and is mistyped, or of a kind that is not supported: give "
            "s3://bucket/prefix (other servers than AWS by AWS_ENDPOINT_URL_S3) or a folder (./NAME if it has a colon)"
        )
    return Path(path)


def expanded(folder: str | Path, what: str) -> Path:
    """``folder`` with a leading ``~`` or ``~user`` replaced by that home. Raises LakePathError if nobody knows it.

    A container's uid often has no passwd entry, and then ``~`` means nothing unless HOME is set.
    """
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise LakePathError(
            f"{what} {str(folder)!r}: this system knows no such home folder; write the path out, or set HOME"
        ) from None


def _s3_address(rest: str) -> S3Address:
    bucket, _, path = rest.partition("/")
    if not bucket or "@" in bucket or "?" in bucket or "#" in bucket:
        raise LakePathError("the lake's address is not s3://bucket/prefix; credentials go in AWS_* variables")
    prefix = path.strip("/")
    lake = "lake " + _CONTROL.sub("?", S3Address(bucket, prefix).uri).encode(errors="replace").decode()
    try:
        size = len(prefix.encode())
    except UnicodeEncodeError:
        raise LakePathError(f"{lake}: its prefix is not text in UTF-8: give another prefix") from None
    if _CONTROL.search(rest):
        raise LakePathError(f"{lake}: it has a control character (a line end?): give it without one")
    if "\\" in rest:
        raise LakePathError(f"{lake}: it has a backslash, which some servers take for a slash: use / or another letter")
    if _OPTIONS.search(path):
        raise LakePathError(f"{lake}: no options after ? are read: set AWS_REGION, AWS_ENDPOINT_URL_S3 and the like")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise LakePathError(f"{lake}: a part of its prefix is empty, '.' or '..', which HTTP drops: give another")
    if size > MAX_PREFIX:
        raise LakePathError(f"{lake}: its prefix has {size} bytes of UTF-8: give one of at most {MAX_PREFIX}")
    return S3Address(bucket, prefix)


def nearest_existing(path: Path) -> Path:
    """The path itself, or the closest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
