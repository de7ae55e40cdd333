"""Clients that connect and do little: each has its time and its share, and nobody else is locked out."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import httpx
import pytest
import uvicorn

from datalake import Lake
from orchestration.serve import ServeSettings, create_app
from orchestration.serve.connections import BoundedProtocol, ConnectionLimits, Connections

PROXY = "127.0.0.9"


@contextmanager
def serving(app: object, limits: ConnectionLimits) -> Iterator[int]:
    """uvicorn with our protocol in a thread of this process, at the port given."""
    bound = socket.create_server(("127.0.0.1", 0), backlog=512)
    connections = Connections(limits, lambda host: host == PROXY)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=partial(BoundedProtocol, connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), daemon=True)
    thread.start()
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    lake = Lake.open(str(tmp_path_factory.mktemp("connections")))
    app = create_app(lake, ServeSettings(body_s=0.5), loopback_only=True)
    with serving(app, ConnectionLimits(header_s=0.7, stalled_s=0.5, all=40, each=10)) as port:
        yield port


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionError:
        pass
    return found


def healthy(port: int, source: str) -> bool:
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(transport=transport, timeout=30) as client:
        return client.get(f"http://127.0.0.1:{port}/api/v1/health").status_code == 200


def problem_in(answer: bytes) -> dict:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    return json.loads(body)


def test_idle_connections_lock_nobody_out(port: int):
    with ExitStack() as held:
        for _ in range(60):  # more than one address may have
            held.enter_context(connect(port, "127.0.0.2"))
        assert healthy(port, "127.0.0.3")
        assert healthy(port, "127.0.0.2"), "an idle connection makes way, also for its own client"
        for number in range(60):  # more than all together, from many addresses
            held.enter_context(connect(port, f"127.0.1.{number + 1}"))
        assert healthy(port, "127.0.0.3")
        for _ in range(30):  # a proxy's connections are many clients'
            held.enter_context(connect(port, PROXY))
        assert healthy(port, "127.0.0.3")


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half"])
def test_headers_have_their_time(port: int, first: bytes):
    with connect(port) as connection:
        connection.sendall(first)
        assert problem_in(rest(connection))["status"] == 408


def test_headers_that_trickle_have_no_more_time(port: int):
    with connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.1):
                try:
                    connection.sendall(b"X: y\r\n")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        answer = rest(connection)
        ended.set()
        sender.join()
        assert problem_in(answer)["status"] == 408


def test_a_second_request_has_its_time_too(port: int):
    with connect(port) as connection:
        connection.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b"ok" not in answer:
            answer += connection.recv(65_536)
        connection.sendall(b"GET /api")
        assert problem_in(rest(connection))["status"] == 408


@pytest.mark.parametrize("length", [b"Content-Length: 50", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_body_has_its_time(port: int, length: bytes):
    with connect(port) as connection:
        connection.sendall(b"PUT /api/v1/params/x HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n")
        found = problem_in(rest(connection))
        assert (found["status"], found["type"]) == (408, "urn:morphogen:error:BodyTimeoutError")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00" * 10 + b"\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (
            b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
    ],
    ids=["tls", "nul", "huge header", "coding", "huge body", "two lengths", "space in a name", "length and chunks"],
)
def test_what_is_no_request_is_answered_with_a_problem(port: int, request_: bytes, status: int):
    with connect(port) as connection:
        with suppress(ConnectionError):
            connection.sendall(request_)
        answer = rest(connection)
        assert problem_in(answer)["status"] == status


def test_a_client_that_does_not_read_is_left():
    left = threading.Event()

    async def pour(_scope: dict, _receive: Callable, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(200):
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.set()

    with serving(pour, ConnectionLimits(stalled_s=0.5)) as port, connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert left.wait(60)


def test_a_connection_at_work_is_not_closed_for_another():
    entered, go = threading.Semaphore(0), threading.Event()

    async def slow(scope: dict, receive: Callable, send: Callable) -> None:
        await receive()
        if scope["path"] == "/slow":
            entered.release()
            await asyncio.to_thread(go.wait, 60)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done", "more_body": False})

    with serving(slow, ConnectionLimits(all=4, each=2)) as port, ExitStack() as held:
        working = [held.enter_context(connect(port, "127.0.0.2")) for _ in range(2)]
        for connection in working:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert entered.acquire(timeout=60)
        third = held.enter_context(connect(port, "127.0.0.2"))
        assert problem_in(rest(third))["status"] == 503
        idle = [held.enter_context(connect(port, "127.0.0.3")) for _ in range(2)]
        with httpx.Client(timeout=30) as client:
            assert client.get(f"http://127.0.0.1:{port}/").text == "done"
        go.set()
        assert all(b"done" in rest(connection) for connection in working)
        assert rest(idle[0]) == b"", "the oldest idle one of all made way"
