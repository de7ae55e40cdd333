"""Responses lost after the S3 server applied the write: a retry meets its own object and must know it as its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from datalake.clock import System
from datalake.lake import Lake
from datalake.log.version_log import VersionLog
from datalake.shards.shards import write_shard
from tests.datalake.helpers import make_source, make_table
from tests.s3server import S3Server


class ReplyDroppingProxy:
    """A TCP proxy before the server; while ``to_drop`` is above 0 it swallows the reply to a PUT and hangs up."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.to_drop = 0
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            is_put = threading.Event()
            back = threading.Thread(target=self._replies, args=(server, client, is_put), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    if data.startswith(b"PUT "):
                        is_put.set()
                    server.sendall(data)
            back.join(5)

    def _replies(self, server: socket.socket, client: socket.socket, is_put: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                final = not data.startswith(b"HTTP/1.1 100")
                if self.to_drop and is_put.is_set() and final:
                    self.to_drop -= 1
                    self.dropped += 1
                    break
                if final:
                    is_put.clear()
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(s3_lake_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplyDroppingProxy]:  # noqa: ARG001
    proxy = ReplyDroppingProxy(int(s3_server.endpoint.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    proxy.close()


def test_appends(s3_lake_uri: str, proxy: ReplyDroppingProxy) -> None:
    log = VersionLog(Lake.open(s3_lake_uri).store, "params", "x", System())
    for number in range(1, 6):
        proxy.to_drop = number % 2
        assert log.append({"n": number}, expected_head=number - 1).number == number
    assert proxy.dropped == 3
    assert [entry.state["n"] for entry in log.entries()] == [1, 2, 3, 4, 5]


def test_shards_and_registry(s3_lake_uri: str, proxy: ReplyDroppingProxy) -> None:
    lake = Lake.open(s3_lake_uri)
    proxy.to_drop = 1
    ref = write_shard(lake.store, make_source(), make_table(7, 0, 32), 0)
    proxy.to_drop = 2
    assert lake.params.put("code", {"family": "nca"}).version == 1
    assert proxy.dropped == 3
    assert list(lake.store.list("data/")) == [ref.key]
    assert len(lake.params.history("code")) == 1
