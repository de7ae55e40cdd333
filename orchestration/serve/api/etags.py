"""ETags and preconditions (RFC 9110): what a reader has, and what a writer believes to be the head.

The ETag of the latest version of a parameter set, and of an alias, is the version number in quotes (with ``-retired``
where it is): the same number that ``expect_version`` and ``expect`` take in process. That of anything else is a digest
of the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Request, Response
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from datalake.log.versioned import Version
from orchestration.console.foreign import as_json
from orchestration.errors import InvalidRequestError
from orchestration.serve.problems import PreconditionFailedError

IfMatch = Annotated[str | None, Header(description='ETag of the head this change is based on, such as `"3"`.')]
IfNoneMatch = Annotated[str | None, Header(description="`*`: only if there is nothing yet.")]

_TAGS = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e]*"\s*)*')
_ONE = re.compile(r'((?:W/)?)"([\x21\x23-\x7e]*)"')

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"


def answer(
    request: Request, body: BaseModel, *, etag: str = "", immutable: bool = False, status: int = 200
) -> Response:
    """``body`` as JSON with its ETag, or 304 if the reader has it. ``immutable``: it may be kept for ever."""
    content = as_json(to_jsonable_python(body)).encode("ascii")  # of text that a lake of others holds, all is escaped
    response = Response(content, status, media_type="application/json")
    tag = f'"{etag or hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": IMMUTABLE if immutable else REVALIDATE}
    if status == 200 and request.method == "GET" and has_already(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def version_tag(version: Version) -> str:
    """The ETag of one version of a name: its number, and that it is retired, which is all that can change of it."""
    return f"{version.version}-retired" if version.retired else str(version.version)


def precondition(
    if_match: str | None, if_none_match: str | None, says: Callable[[int, int], str]
) -> Callable[[int], None]:
    """A check of a write's preconditions, given the version that is there (0: none).

    ``says`` words the refusal, given the version expected and the one found. The check raises PreconditionFailedError,
    with both heads, where they do not hold, and InvalidRequestError where no version could fulfil them.
    """

    def check(found: int) -> None:
        expected = _expected(if_match, if_none_match, found)
        if expected is not None and expected != found:
            raise PreconditionFailedError(says(expected, found), expected=expected, found=found)

    return check


def _expected(if_match: str | None, if_none_match: str | None, found: int) -> int | None:
    """What a write's preconditions expect the head version to be: None anything, 0 nothing there yet."""
    if if_match is not None and if_none_match is not None:
        raise InvalidRequestError("If-Match and If-None-Match: found both, expected one of them; leave the other out")
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise InvalidRequestError(f"If-None-Match: {if_none_match[:80]!r}; on a write only * is allowed")
        return 0
    if if_match is None:
        return None
    if if_match.strip() == "*":
        if found == 0:
            raise PreconditionFailedError("If-Match is *, but there is nothing yet: send If-None-Match: * to begin")
        return found
    if not _TAGS.fullmatch(if_match):
        raise InvalidRequestError(f'If-Match: {if_match[:80]!r} is no ETag; send one as it was read, such as "3"')
    strong = [tag for weak, tag in _ONE.findall(if_match) if not weak]
    strong = [tag.removesuffix("-retired") for tag in strong]
    numbers = [int(tag) for tag in strong if tag.isascii() and tag.isdigit() and 0 < len(tag) <= 9]
    if len(numbers) == 1:
        return numbers[0]
    if found in numbers:
        return found
    raise PreconditionFailedError(
        f"If-Match is {if_match[:80]}, found head {found}: look at what changed and try again",
        expected=numbers[0] if numbers else 0,
        found=found,
    )


def has_already(header: str | None, tag: str) -> bool:
    """Whether If-None-Match names ``tag`` (weak comparison) or is ``*``."""
    if header is None:
        return False
    return header.strip() == "*" or f"{tag[1:-1]}" in [found for _, found in _ONE.findall(header)]
