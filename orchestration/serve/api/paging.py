"""Pages of a list: at most ``limit`` items, and an opaque cursor that says where the next page begins.

A cursor names the last item seen, not a position, so that what is added meanwhile neither repeats nor hides an item.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, TypeVar

from fastapi import Query

from datalake.log.versioned import Version, VersionedRepository
from orchestration.errors import InvalidRequestError

_T = TypeVar("_T")
_V = TypeVar("_V", bound=Version)

Limit = Annotated[int, Query(ge=1, le=500, description="Items in a page at most.")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next` of the page before.")]
DEFAULT_LIMIT = 100


def page_of_names(
    names: Callable[[str], Iterator[str]], cursor: str | None, limit: int, load: Callable[[str], _T]
) -> tuple[list[_T], str | None]:
    """The page of sorted names after ``cursor``, each loaded, and the next cursor; ``names(after)`` gives them."""
    chosen = [*islice(names(_decode(cursor) if cursor else ""), limit + 1)]
    more = encode_cursor(chosen[limit - 1]) if len(chosen) > limit else None
    return [load(name) for name in chosen[:limit]], more


def page_of_rows(rows: Sequence[_T], cursor: str | None, limit: int) -> tuple[list[_T], str | None]:
    """The page of an append-only list after ``cursor`` (its last item's place, from 1), and the next cursor."""
    start = _place(cursor)
    end = start + limit
    return list(rows[start:end]), encode_cursor(str(end)) if end < len(rows) else None


def page_of_versions(
    repository: VersionedRepository[_V], name: str, cursor: str | None, limit: int
) -> tuple[Sequence[_V], str | None]:
    """The page of a name's versions after the one that ``cursor`` names, and the next cursor; no other is read."""
    items, more = repository.page(name, _place(cursor), limit)
    return items, encode_cursor(str(items[-1].version)) if more else None


def _place(cursor: str | None) -> int:
    text = _decode(cursor) if cursor else "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _bad()
    return int(text)


def encode_cursor(last: str) -> str:
    """The cursor of a page that ends with ``last``."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def _decode(cursor: str) -> str:
    try:
        return base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode()
    except (binascii.Error, ValueError) as error:
        raise _bad() from error


def _bad() -> InvalidRequestError:
    return InvalidRequestError("cursor: not one that this server made; leave it out to begin with the first page")
