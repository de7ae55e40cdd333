"""A proxy before the S3 server that takes no large object in one request: ``python -m tests.limit_proxy PORT N``.

It prints the port that it listens on, and answers EntityTooLarge for every PUT with a body of more than N bytes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.s3server import S3Server

BODY = (
    b"<?xml version='1.0'?><Error><Code>EntityTooLarge</Code>"
    b"<Message>Your proposed upload exceeds the maximum allowed size</Message></Error>"
)


async def serve(server_port: int, limit: int) -> None:
    """Answer until killed."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
                fields = {
                    name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
                }
                waits = b"expect" in fields
                length = int(fields.get(b"content-length", b"0"))
                if head.startswith(b"PUT ") and length > limit:
                    if not waits:
                        await reader.readexactly(length)
                    status = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY)
                    writer.write(status + BODY)
                    await writer.drain()
                    return
                if waits:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    await writer.drain()
                body = await reader.readexactly(length)
                kept = [line for line in lines if not line.lower().startswith((b"expect:", b"connection:"))]
                answer, ask = await asyncio.open_connection("127.0.0.1", server_port)
                ask.write(b"\r\n".join([*kept, b"Connection: close", b"", body]))
                await ask.drain()
                while data := await answer.read(1 << 20):
                    writer.write(data)
                    await writer.drain()
                ask.close()
                return
        writer.close()

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await one(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def limit_proxy(server: S3Server, limit: int) -> Iterator[str]:
    """A proxy process before ``server``; yields its endpoint."""
    command = [sys.executable, "-m", "tests.limit_proxy", server.endpoint.rpartition(":")[2], str(limit)]
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
