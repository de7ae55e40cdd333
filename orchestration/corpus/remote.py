"""Files at URLs, through fsspec: what they are called, how they are listed, and how long a silent server is waited for.

A URL may carry a password or a signature; what is shown and stored of it is its address without them.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeGuard, cast

import fsspec
from fsspec.archive import AbstractArchiveFileSystem

from orchestration.console.foreign import shown
from orchestration.errors import CorpusError

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}
CONNECT_S = 10  # for a connection; the libraries themselves ask a few times
SILENCE_S = 60  # without a byte

_WEB = ("http://", "https://")
# What may be secret in an address: user and password, and what a web address says after its path.
_SECRET = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://)(?P<user>[^/\s@'\"]*@)?(?P<path>[^\s'\"()]*)", re.IGNORECASE)


def is_url(path: object) -> TypeGuard[str]:
    return isinstance(path, str) and "://" in path


def without_secrets(text: str) -> str:
    """A text, such as a URL or an error of a library, whose URLs say neither user, password nor query."""

    def bare(found: re.Match[str]) -> str:
        path = found["path"]
        if found["before"].lower() in _WEB:
            path = re.split(r"[?#]", path, maxsplit=1)[0]
        return found["before"] + path

    return _SECRET.sub(bare, text)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL and the path in it. Raises CorpusError where its package is not installed, and for
    files within archives."""
    scheme = url.partition("://")[0].lower()
    try:
        system, path = fsspec.core.url_to_fs(url, **_options(scheme))
        if isinstance(system, AbstractArchiveFileSystem):
            raise CorpusError(
                f"paths: {shown(without_secrets(url))} lies within an archive; unpack it, and give its files"
            )
        if scheme == "hf":
            from huggingface_hub import get_session

            get_session().timeout = SILENCE_S  # which lists without a limit of its own
    except OSError as error:  # of an archive, which is opened at once
        said = shown(without_secrets(error.strerror or str(error)))
        raise CorpusError(
            f"paths: {shown(without_secrets(url))} cannot be read ({said}); mend or leave it out"
        ) from error
    except (ImportError, ValueError) as error:
        raise CorpusError(
            f"paths: {shown(without_secrets(url))}: {scheme}:// cannot be opened here "
            f"({shown(without_secrets(str(error)))}); install the package that it names, or copy the files"
        ) from error
    return system, path


def open_remote(url: str) -> BinaryIO:
    """The file at a URL. Raises CorpusError where its filesystem is not there, and what that one raises."""
    system, path = filesystem(url)
    return cast(BinaryIO, _RemoteFile(system.open(path, "rb")))


class _RemoteFile(io.RawIOBase):
    """A file of fsspec's whose errors are OSError: every library behind it has errors of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def read(self, size: int = -1) -> bytes:
        return self._asked(self._file.read, size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._asked(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._asked(self._file.tell)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    @staticmethod
    def _asked(call: Callable[..., Any], *arguments: int) -> Any:
        try:
            return call(*arguments)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("http", "https"):
        import aiohttp

        # By default five minutes for all of an answer, which a large file takes longer than.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        return {"client_kwargs": {"timeout": timeout}}
    if scheme in ("s3", "s3a"):
        waits = {"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": waits}
    return {}


def listed(system: Any, path: str, patterns: Sequence[str]) -> tuple[dict[str, int], str]:
    """URL → size in bytes (0: unknown) of the files that a path means, and the folder that their names are relative to.

    A path with ``*`` or ``**`` means what matches it, a folder its files whose names match a pattern. Raises what the
    filesystem does.
    """
    system.invalidate_cache()  # what was listed a while ago by this process may have changed
    web = "http" in system.protocol
    magic = "*" if web else "*?["  # in a web address a question mark begins what it asks
    fixed = re.split(f"[{re.escape(magic)}]", path, maxsplit=1)[0]
    wanted: tuple[str, ...] = ("*",)
    if not web and fixed != path and system.isfile(path):  # a file of that name comes first, as on a disk
        fixed = path
    if fixed != path:
        entries = system.glob(path, detail=True)
        base = fixed.rpartition("/")[0]
    elif web or system.isfile(path):
        entries, base = {path: system.info(path)}, re.split(r"[?#]", path, maxsplit=1)[0].rpartition("/")[0]
    else:
        entries, wanted, base = system.find(path, detail=True), tuple(patterns), path.rstrip("/")
        if not entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    files = {}
    for name, entry in entries.items():
        inner = PurePosixPath(name).relative_to(base).parts if name.startswith(base) else (name,)
        # Of folders alone, as on a disk.
        hidden = any(part.startswith(".") or part in SKIPPED_FOLDERS for part in inner[:-1])
        if entry.get("type") == "file" and not hidden and _matches(inner[-1], wanted):
            files[system.unstrip_protocol(name)] = int(entry.get("size") or 0)
    return files, system.unstrip_protocol(base)


def names_of(urls: Sequence[str], bases: Sequence[str]) -> dict[str, str]:
    """URL → name within the deepest folder that holds all ``bases``; a query is part of it only where it must be."""
    common = PurePosixPath(os.path.commonpath([PurePosixPath(without_secrets(base)) for base in bases]))
    names = {url: PurePosixPath(without_secrets(url)).relative_to(common).as_posix() for url in urls}
    taken = Counter(names.values())
    return {url: name if taken[name] == 1 else f"{name}?{url.partition('?')[2]}" for url, name in names.items()}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
