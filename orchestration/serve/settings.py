"""What a server is told at its start and carries along: a lake, who may use it, and limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from datalake import Lake
from datalake.registry.access import AccessControl


@dataclass(frozen=True)
class ServeSettings:
    """Limits and choices of a server.

    ``redirect`` sends readers of big objects straight to S3 with a presigned URL; without it, and on local disk, the
    server streams them itself. ``max_body`` is in bytes, ``presigned_s`` in seconds.
    """

    redirect: bool = True
    max_body: int = 262_144
    presigned_s: int = 900
    session: timedelta = timedelta(hours=12)
    token_refresh_s: float = 1.0


@dataclass(frozen=True)
class Served:
    """What every handler works with. ``open``: whether requests without any token in the lake are served at all."""

    lake: Lake
    access: AccessControl
    settings: ServeSettings
    open: bool

    def lake_as(self, author: str | None) -> Lake:
        """The lake, with ``author`` in the history of what is written through it."""
        if author is None:
            return self.lake
        return Lake(self.lake.store, replace(self.lake.ambient, author=author))


def served(request: Request) -> Served:
    """The server's lake and settings."""
    return request.app.state.served


ServedDep = Annotated[Served, Depends(served)]
