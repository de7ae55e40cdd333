"""What ``RAY_ADDRESS`` may say, checked before Ray is asked to join it.

Ray itself answers a wrong address with a stack trace or with minutes of silence that end in an abort. The variable is
also what ``ray job submit`` reads, where it means the dashboard (http://HOST:8265), so it is often set to that.
"""

from __future__ import annotations

import os
import re
import socket

from orchestration.errors import ClusterLostError, InvalidRequestError

VARIABLE = "RAY_ADDRESS"
TIMEOUT_S = 3.0

# HTTP/2 (RFC 9113): the client's preface and an empty SETTINGS frame, which any gRPC server answers with its SETTINGS.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME = 4

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
_WANTED = "set it to HOST:PORT of the cluster's head (`ray start --head` prints it; 6379 unless changed), or unset it"


def cluster_address() -> str | None:
    """Return ``auto`` or ``HOST:PORT`` of the cluster that ``RAY_ADDRESS`` names; None for a Ray of this command's own.

    Raises InvalidRequestError for anything else, among it ``http://…`` and ``ray://…``.
    """
    address = os.environ.get(VARIABLE, "").strip()
    if address in ("", "local"):
        return None
    if address == "auto":
        return address
    scheme, found, _ = address.partition("://")
    if found and scheme.lower() in ("http", "https"):
        raise InvalidRequestError(
            f"{VARIABLE} = {address}: that is the dashboard, where `ray job submit` sends jobs; a command joins the "
            f"cluster itself: {_WANTED}"
        )
    if found and scheme.lower() == "ray":
        raise InvalidRequestError(
            f"{VARIABLE} = {address}: jobs are not run through the Ray client, which reaches only a part of the "
            f"cluster: run the command on a machine of the cluster, or with `ray job submit`, and {_WANTED}"
        )
    matched = _HOST_PORT.fullmatch(address)
    if matched is None or not 0 < int(matched["port"]) < 65_536:
        raise InvalidRequestError(f"{VARIABLE} = {address!r}: {_WANTED}")
    return address


def check_head(address: str) -> None:
    """Return if a Ray head answers at ``HOST:PORT``, as far as that can be told without Ray.

    Raises ClusterLostError, at once where nobody listens and within seconds where somebody else does.
    """
    host, _, port = address.rpartition(":")
    secured = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S) as connection:
            if secured:  # Ray's own certificates decide who may speak; here it counts only that somebody listens
                return
            connection.settimeout(TIMEOUT_S)
            connection.sendall(PREFACE)
            answer = connection.recv(16)
    except TimeoutError as error:
        raise _not_there(address, f"no answer within {TIMEOUT_S:.0f} s") from error
    except (OSError, UnicodeError) as error:
        raise _not_there(address, str(error)) from error
    if len(answer) < 4 or answer[3] != SETTINGS_FRAME or answer.startswith(b"HTTP/"):
        what = "a web server" if b"HTTP" in answer or b"<" in answer[:1] else "something else"
        raise ClusterLostError(
            f"{VARIABLE} = {address}: no Ray head answers there but {what}, perhaps the dashboard: {_WANTED}"
        )


def _not_there(address: str, problem: str) -> ClusterLostError:
    return ClusterLostError(
        f"{VARIABLE} = {address}: no Ray head answers there ({problem}); start it or give another address, then run "
        "the same command again"
    )


def cannot_join(address: str, error: BaseException) -> ClusterLostError:
    """The error of a cluster that answered and yet could not be joined; Ray's own words follow in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        return ClusterLostError(
            f"{VARIABLE} = {address}: the Ray cluster there asks for a token: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (by default ~/.ray/auth_token) to what its head was started with"
        )
    return ClusterLostError(
        f"{VARIABLE} = {address}: the Ray cluster there cannot be joined ({said}); this machine must be one of its "
        "nodes and have the same versions of Ray and Python"
    )
