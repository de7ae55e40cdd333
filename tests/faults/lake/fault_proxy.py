"""A TCP proxy before the S3 server that does to requests what networks and overloaded servers do.

Faults are drawn per request from a seeded generator. Those that matter most are the ones in which the server applied
a write and its writer is told nothing, or told otherwise, or told so before the write arrives.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FAULTS = (
    "delay",  # late, but as asked
    "lost request",  # connection reset, nothing reached the server
    "lost reply",  # applied, then connection reset
    "cut reply",  # applied, half of the answer, then connection reset
    "busy",  # 503 SlowDown, nothing reached the server
    "conflict",  # 409, nothing reached the server
    "applied but busy",  # applied, then 503
    "applied but conflict",  # applied, then 409
    "late",  # connection reset, and some time later the request reaches the server all the same
)
_CODES = {"busy": ("503 Slow Down", "SlowDown"), "conflict": ("409 Conflict", "ConditionalRequestConflict")}


class FaultProxy:
    """Listens on ``port``; while ``rate`` is above 0, that share of requests meets a fault. ``seen`` counts them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server_port: int, seed: int, rate: float) -> None:
        self._loop = loop
        self._server_port = server_port
        self._random = random.Random(seed)
        self.rate = rate
        self.seen: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=200)

    def close(self) -> None:
        """Stop listening, and wait for requests that are still on their way to the server."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)

    async def _close(self) -> None:
        self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=50)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._one_request(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read_request(reader, writer)
        fault = self._random.choice(FAULTS) if self._random.random() < self.rate else "none"
        if fault.endswith("conflict") and not request.startswith(b"PUT "):
            fault = "delay"
        self.seen[fault] += 1
        before, later = self._random.uniform(0, 0.02), self._random.uniform(0.02, 0.4)
        if fault in ("delay", "lost reply", "cut reply"):
            await asyncio.sleep(before)
        if fault in ("late", "lost request"):
            _reset(writer)
            if fault == "late":
                await asyncio.sleep(later)
                await self._forward(request)
            return
        reply = b""
        if fault not in _CODES:
            reply = await self._forward(request)
        if fault in ("lost reply", "cut reply"):
            if fault == "cut reply":
                writer.write(reply[: len(reply) // 2])
                await writer.drain()
            _reset(writer)
            return
        status = _CODES.get(fault.removeprefix("applied but "))
        if status is not None:
            body = f"<?xml version='1.0'?><Error><Code>{status[1]}</Code><Message>injected</Message></Error>".encode()
            reply = f"HTTP/1.1 {status[0]}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        writer.write(reply)
        await writer.drain()

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()  # the request says "Connection: close"
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """One whole request, made to end its connection; the client's wait for "100 Continue" is answered here."""
    head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    if b"100-continue" in head:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    body = await reader.readexactly(length)
    return b"\r\n".join([*lines, b"Connection: close", b"", body])


def _reset(writer: asyncio.StreamWriter) -> None:
    """Hang up with a reset rather than a farewell."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def proxy_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, for any number of proxies."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fault proxies", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
