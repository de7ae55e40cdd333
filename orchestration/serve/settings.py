"""What a server is told at its start and carries along: a lake, who may use it, and limits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from datalake import Lake
from datalake.registry.access import AccessControl
from orchestration.serve.acceptance import AcceptanceChecks, CheckLimits
from orchestration.serve.forwarded import LOOPBACK


@dataclass(frozen=True)
class ServeSettings:
    """Limits and choices of a server.

    ``redirect`` sends readers of big objects straight to S3 with a presigned URL; without it, and on local disk, the
    server streams them itself. ``max_body`` is in bytes, ``presigned_s`` in
    seconds. ``body_s`` is how long a body may take to arrive, ``max_requests`` how many are worked on at once.
    ``root_path`` is the path below which a proxy shows the server; ``trusted_proxies`` are the addresses and ranges
    whose X-Forwarded- headers are believed.
    """

    redirect: bool = True
    max_body: int = 262_144
    body_s: float = 30.0
    max_requests: int = 256
    presigned_s: int = 900
    session: timedelta = timedelta(hours=12)
    token_refresh_s: float = 1.0
    checks: CheckLimits = field(default_factory=CheckLimits)
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = LOOPBACK


@dataclass(frozen=True)
class Served:
    """What every handler works with. ``open``: whether requests without any token in the lake are served at all."""

    lake: Lake
    access: AccessControl
    settings: ServeSettings
    open: bool
    checks: AcceptanceChecks

    def public(self, text: str) -> str:
        """``text`` without the place of the lake on this server's disk."""
        return without_place(self.lake, text)

    def lake_as(self, author: str | None) -> Lake:
        """The lake, with ``author`` in the history of what is written through it."""
        if author is None:
            return self.lake
        return Lake(self.lake.store, replace(self.lake.system, author=author))


def without_place(lake: Lake, text: str) -> str:
    """``text`` with LAKE for a lake's folder: where that is on a disk is nobody's business."""
    uri = lake.uri
    return text if uri.startswith("s3://") else text.replace(os.path.realpath(uri), "LAKE").replace(uri, "LAKE")


def served(request: Request) -> Served:
    """The server's lake and settings."""
    return request.app.state.served


ServedDep = Annotated[Served, Depends(served)]
