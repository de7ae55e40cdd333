"""RAY_ADDRESS as people have it set: what cannot be a cluster is named in one line before Ray is asked to join it."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from orchestration.cluster import address as ray_address
from orchestration.cluster.address import cannot_join, check_head, cluster_address
from orchestration.errors import ClusterLostError, InvalidRequestError


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://head:8265", "dashboard.*`ray job submit`.*HOST:PORT"),
        ("HTTPS://head.example.org/ray/", "dashboard"),
        ("ray://head:10001", "Ray client"),
        ("redis://head:6379", "HOST:PORT"),
        ("head", "HOST:PORT"),
        ("head:", "HOST:PORT"),
        (":6379", "HOST:PORT"),
        ("head:6379:6380", "HOST:PORT"),
        ("head:0", "HOST:PORT"),
        ("head:65536", "HOST:PORT"),
        ("head:gcs", "HOST:PORT"),
        ("a head:6379", "HOST:PORT"),
        ("head:6379/", "HOST:PORT"),
        ("user@head:6379", "HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_a_cluster_s_is_named(monkeypatch, address, says):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InvalidRequestError, match=rf"RAY_ADDRESS.*{says}") as raised:
        cluster_address()
    assert len(str(raised.value).splitlines()) == 1
    assert address in str(raised.value)


@pytest.mark.parametrize(
    ("address", "means"),
    [
        ("", None),
        (" ", None),
        ("local", None),
        ("auto", "auto"),
        ("head:6379", "head:6379"),
        (" 10.0.0.1:6379\n", "10.0.0.1:6379"),
        ("[fe80::1%eth0]:6379", "[fe80::1%eth0]:6379"),
    ],
)
def test_what_may_be_said(monkeypatch, address, means):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() == means


@pytest.fixture
def web_server() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_dashboard_is_told_from_a_head(web_server):
    with pytest.raises(ClusterLostError, match="web server, perhaps the dashboard") as raised:
        check_head(web_server)
    assert raised.value.exit_code == 4


def test_nobody_and_somebody_silent_are_named(monkeypatch):
    monkeypatch.setattr(ray_address, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterLostError, match=f"{address}.*no answer"):
            check_head(address)
    with pytest.raises(ClusterLostError, match=f"{address}.*refused"):
        check_head(address)
    with pytest.raises(ClusterLostError, match="no Ray head answers"):
        check_head("no-such-host.invalid:6379")


def test_a_real_head_is_one(ray_cluster):
    check_head(ray_cluster.address)


def test_ray_s_own_words_are_one_line():
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9\n    Python: 3.8")
    said = str(cannot_join("head:6379", error))
    assert "Version mismatch" in said
    assert len(said.splitlines()) == 1
