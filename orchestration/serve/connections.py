"""Connections that wait for their client: bounded in time and number, so that nobody locks the others out.

A client has so long for its request line and headers, so long to read what is sent, and so many connections; the body
has its time in the gate, keep-alive in uvicorn. Where there are too many connections, the oldest one that waits for its
client is closed, not the newest refused: idle ones make way for those with a request.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestration.serve.problems import MEDIA_TYPE, problem


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds and numbers. ``each`` holds for one address, unless it is a trusted proxy's."""

    header_s: float = 10.0
    stalled_s: float = 30.0
    all: int = 512
    each: int = 64


class Connections:
    """The open connections of a server, oldest first, by client address."""

    def __init__(self, limits: ConnectionLimits, is_proxy: Callable[[str], bool]) -> None:
        self.limits = limits
        self._is_proxy = is_proxy
        self._open: dict[str, dict[BoundedProtocol, None]] = {}

    def admit(self, connection: BoundedProtocol, host: str) -> bool:
        """Take a connection in; others may be closed for it. False where all others are at work."""
        own = self._open.get(host, {})
        if len(own) >= self.limits.each and not self._is_proxy(host) and not _close_oldest(own):
            return False
        if sum(map(len, self._open.values())) >= self.limits.all:
            crowds = sorted(self._open.values(), key=len, reverse=True)
            if not any(_close_oldest(crowd) for crowd in crowds):
                return False
        self._open.setdefault(host, {})[connection] = None
        return True

    def forget(self, connection: BoundedProtocol, host: str) -> None:
        """A connection is gone."""
        own = self._open.get(host, {})
        own.pop(connection, None)
        if not own:
            self._open.pop(host, None)


def _close_oldest(connections: dict[BoundedProtocol, None]) -> bool:
    """Close the oldest that waits for its client; False if none does."""
    found = next((one for one in connections if one.waits_for_client), None)
    if found is None:
        return False
    del connections[found]
    found.transport.abort()
    return True


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines. What is wrong below HTTP is answered with a problem, too."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._host = ""

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing happens before the client sends or reads something."""
        return not self._at_work or self.cycle.more_body or self.flow.write_paused

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._host = self.client[0] if self.client else ""
        if not self._table.admit(self, self._host):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are at work: try again in a moment")
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.forget(self, self._host)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def _follow(self) -> None:
        """A time for the headers runs from the first byte, or from the beginning, until there is a request."""
        if self._at_work:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self._table.limits.header_s, self._headers_late)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._at_work:  # a request that was sent ahead
            self._follow()

    def _headers_late(self) -> None:
        self._deadline = None
        if not self._at_work and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"no request within {self._table.limits.header_s:g} s")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self._table.limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Called where h11 refuses what it got; its exception says which status fits."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else HTTPStatus.BAD_REQUEST
        self._refuse(HTTPStatus(status), f"{msg.rstrip('.')}: send HTTP/1.1")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            made = problem(status, status.phrase.title().replace(" ", "").replace("-", ""), detail, "")
            body = bytes(made.body)
            headers = [
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *([("retry-after", "2")] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=status.phrase.encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
