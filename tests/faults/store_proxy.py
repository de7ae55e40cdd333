"""A TCP proxy before the S3 server that can be there, be slow, or be gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

CHUNK = 1 << 20


class StoreProxy:
    """Listens on ``port``. ``delay`` seconds pass before a client's words are handed on; ``down`` resets everyone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server_port: int) -> None:
        self._loop, self._server_port = loop, server_port
        self._open: set[asyncio.StreamWriter] = set()
        self._down = False
        self.delay = 0.0
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), loop).result(10)
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def down(self) -> None:
        """Reset every connection, now and until ``up``."""
        self._down = True
        asyncio.run_coroutine_threadsafe(self._reset_all(), self._loop).result(10)

    def up(self) -> None:
        self._down, self.delay = False, 0.0

    def close(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._server.close)

    async def _reset_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)
        while self._open:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._down:
            _reset(writer)
            return
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            both = {writer, server_writer}
            self._open |= both
            try:
                await asyncio.gather(
                    self._pass_on(reader, server_writer, slowly=True),
                    self._pass_on(server_reader, writer, slowly=False),
                )
            finally:
                self._open -= both
                for each in both:
                    each.close()
            return
        _reset(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        try:
            while data := await reader.read(CHUNK):
                if slowly and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
