"""Behind a proxy: who asked, by which scheme and name, and below which path, as far as the proxy is trusted.

Of X-Forwarded-For, -Proto, -Host and -Prefix the last value counts: the nearest proxy's. From an address that is not
trusted none of them is read, so a client cannot claim to be another.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from orchestration.errors import InvalidRequestError

LOOPBACK = ("127.0.0.0/8", "::1/128")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,8}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_trusted(host: str, networks: Sequence[Network]) -> bool:
    """Whether ``host`` is an address in one of ``networks``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks)


def parse_networks(given: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and CIDR ranges. Raises InvalidRequestError naming the one that is neither."""
    found = []
    for text in given:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise InvalidRequestError(
                f"--trusted-proxy {text!r}: {error}; give an address such as 10.0.0.7 or a range such as 10.0.0.0/8"
            ) from error
    return tuple(found)


def parse_root_path(text: str) -> str:
    """A path prefix without a slash at its end; "" for none. Raises InvalidRequestError."""
    plain = text.rstrip("/")
    if plain and not _is_prefix(plain):
        raise InvalidRequestError(
            f"--root-path {text!r}: not a path; give one such as /morphogen, of letters, digits and . _ ~ -"
        )
    return plain


class Forwarded:
    """Outermost of all: puts what trusted proxies say into the scope, and the prefix before the path.

    ``root_path`` is the prefix without a proxy's word for it. A proxy may cut the prefix off or leave it on. Host is
    rewritten only with ``any_host``: a server that answers to few Host names checks the one that was really sent.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str], root_path: str = "", *, any_host: bool) -> None:
        self._networks = parse_networks(trusted)
        self._root_path = root_path
        self._any_host = any_host
        # uvicorn's own middleware for the address and the scheme.
        self._app: ASGIApp = ProxyHeadersMiddleware(app, [str(one) for one in self._networks])  # type: ignore[arg-type, assignment]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            peer = scope["client"][0] if scope.get("client") else ""
            prefix, trusts = self._root_path, is_trusted(peer, self._networks)
            if trusts and _is_prefix(given := _last(headers.get("x-forwarded-prefix", "")).rstrip("/")):
                prefix = given
            scope = {**scope, "root_path": prefix, "path": _below(prefix, scope["path"])}
            host = _last(headers.get("x-forwarded-host", ""))
            if trusts and self._any_host and _HOST.fullmatch(host):
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope["headers"] = [(b"host", host.encode("ascii")), *others]
        await self._app(scope, receive, send)


def _is_prefix(text: str) -> bool:
    return _PREFIX.fullmatch(text) is not None and not {".", ".."} & set(text.split("/"))


def _last(value: str) -> str:
    return value.rpartition(",")[2].strip()


def _below(prefix: str, path: str) -> str:
    """The full path: with the prefix once, whether the proxy left it on or not."""
    if not prefix or path.startswith(f"{prefix}/"):
        return path
    return f"{prefix}/" if path == prefix else prefix + path
