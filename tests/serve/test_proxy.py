"""Behind a real proxy process: TLS that ends there, another Host name, a path prefix; trusted, or not."""

from __future__ import annotations

import ipaddress
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.testclient import TestClient

from datalake import Lake
from datalake.registry.access import TokenLog
from orchestration.errors import InvalidRequestError
from orchestration.serve import create_app
from orchestration.serve.forwarded import is_trusted, parse_networks, parse_root_path
from tests.serve.conftest import API, ROOT, Server

PREFIX = "/morphogen"
ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def running(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """host:port of a server that trusts ADDRESS and knows its prefix, and an admin's token."""
    folder = str(shutil.copytree(filled, tmp_path_factory.mktemp("proxied") / "lake"))
    opened = Lake.open(folder)
    token = TokenLog(opened.store, opened.system).create("the-admin", "admin")[1]
    server = Server(folder, "--trusted-proxy", ADDRESS, "--trusted-proxy", "10.0.0.0/8", "--root-path", f"{PREFIX}/")
    try:
        yield server.wait().url.removeprefix("http://"), token
    finally:
        server.stop()


@contextmanager
def proxy(
    upstream: str, certificate: tuple[Path, Path], mode: str, prefix: str = PREFIX, address: str = ADDRESS
) -> Iterator[httpx.Client]:
    """A browser, so to speak, in front of a proxy in front of ``upstream``."""
    place = [upstream, *map(str, certificate), prefix, mode, address]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serve.reverse_proxy", *place],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusting, timeout=60) as browser:
            yield browser
    finally:
        process.terminate()
        process.wait()


def log_in(browser: httpx.Client, token: str, prefix: str = PREFIX) -> httpx.Response:
    """As a browser does, with the Origin that it sends."""
    data = {"token": token, "next": f"{prefix}/runs"}
    origin = str(browser.base_url).rstrip("/")
    return browser.post(f"{prefix}/login", data=data, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})


def crawl(browser: httpx.Client) -> set[str]:
    """Every page that the first one leads to; every link must stay below the prefix and lead somewhere."""
    waiting, seen = [f"{PREFIX}/"], set()
    while waiting:
        path = waiting.pop().partition("#")[0]
        if path in seen:
            continue
        seen.add(path)
        page = browser.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200, path
        for link in re.findall(r'(?:href|action|src)="([^"]*)"', page.text.replace("&amp;", "&")):
            if link.startswith("/"):
                assert link.startswith(f"{PREFIX}/"), f"{link} on {path} leaves the prefix"
                if "/api/v1" not in link and not link.endswith("/logout"):
                    waiting.append(link)
    return seen


def test_pages_and_log_in_below_a_prefix(running: tuple[str, str], certificate: tuple[Path, Path]):
    at, token = running
    for mode in ("cut", "keep"):
        with proxy(at, certificate, mode) as browser:
            sent = browser.get(f"{PREFIX}/params/tiny?before=1", headers={"Accept": "text/html"})
            to_login = f"{PREFIX}/login?next=%2Fmorphogen%2Fparams%2Ftiny%3Fbefore%3D1"
            assert (sent.status_code, sent.headers["location"]) == (303, to_login)
            entered = log_in(browser, token)
            assert (entered.status_code, entered.headers["location"]) == (303, f"{PREFIX}/runs")
            cookie = entered.headers["set-cookie"]
            assert "Secure" in cookie, "the scheme is the browser's, not the one between proxy and server"
            assert f"Path={PREFIX};" in cookie
            if mode == "cut":
                seen = crawl(browser)
                assert {f"{PREFIX}/models/language-model/1", f"{PREFIX}/datasets/grids/1/sequences"} <= seen
            _check_api(browser, token)
            left = browser.post(f"{PREFIX}/logout")
            assert (left.status_code, left.headers["location"]) == (303, f"{PREFIX}/login")
            assert browser.get(f"{PREFIX}/runs").status_code == 303


def _check_api(browser: httpx.Client, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    schema = browser.get(f"{PREFIX}{API}/openapi.json", headers=headers).json()
    assert schema["servers"] == [{"url": PREFIX}]
    shards = browser.get(f"{PREFIX}{API}/datasets/grids/versions/1/shards", headers=headers).json()
    assert browser.get(shards["items"][0]["href"], headers=headers).status_code == 200
    lost = browser.get(f"{PREFIX}{API}/params/nothing", headers=headers).json()
    assert lost["instance"] == f"{PREFIX}{API}/params/nothing"


def test_a_proxy_names_the_prefix_itself_if_it_is_trusted(running: tuple[str, str], certificate: tuple[Path, Path]):
    at, token = running
    with proxy(at, certificate, "header", "/elsewhere/below") as browser:
        assert log_in(browser, token, "/elsewhere/below").status_code == 303
        page = browser.get("/elsewhere/below/runs", headers={"Accept": "text/html"})
        links = re.findall(r'href="(/[^"]*)"', page.text)
        assert links
        assert all(link.startswith("/elsewhere/below/") for link in links)


def test_whom_nobody_trusts_changes_nothing(running: tuple[str, str], certificate: tuple[Path, Path]):
    at, token = running
    with proxy(at, certificate, "header", "/elsewhere", "127.0.0.3") as browser:
        refused = log_in(browser, token, "/elsewhere")
        assert refused.status_code == 400, "the origin is https and a name that the server was never told"
        page = browser.get("/elsewhere/login", headers={"Accept": "text/html"})
        assert 'href="/elsewhere' not in page.text


@pytest.mark.parametrize("given", ["", "10.0.0.0/33", "proxy.example.org", "10.0.0.1/8", "*"])
def test_a_proxy_is_an_address_or_a_range(given: str):
    with pytest.raises(InvalidRequestError, match=r"--trusted-proxy.*give an address"):
        parse_networks([given])


@pytest.mark.parametrize("given", ["morphogen", "/a b", "/../x", "/a//b", "https://x/y", "/a?b", "/é"])
def test_a_root_path_is_a_plain_path(given: str):
    with pytest.raises(InvalidRequestError, match="--root-path"):
        parse_root_path(given)
    assert parse_root_path("/morphogen/") == "/morphogen"
    assert parse_root_path("/") == ""


def test_ranges_hold_their_addresses():
    networks = parse_networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"])
    assert all(is_trusted(host, networks) for host in ("10.9.8.7", "2001:db8::5", "192.0.2.1"))
    assert not any(is_trusted(host, networks) for host in ("11.0.0.1", "2001:db9::5", "192.0.2.2", "", "unix:"))


def test_what_a_forged_header_says_is_not_believed_by_an_open_server(tmp_path: Path):
    """A page whose name was pointed at this machine may send any header: it must not talk its way in."""
    app = create_app(Lake.open(str(tmp_path / "lake")), loopback_only=True)
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 5)) as client:
        assert client.get(f"{API}/params").status_code == 200
        rebound = {"Host": "evil.example", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"}
        assert client.get(f"{API}/params", headers=rebound).status_code == 400
        for prefix in ("//evil.example", "/../x", "/a b", "https://evil.example", "/x?y", "/" + "a/" * 50):
            page = client.get("/", headers={"X-Forwarded-Prefix": prefix, "Accept": "text/html"})
            assert 'href="/params"' in page.text, prefix
