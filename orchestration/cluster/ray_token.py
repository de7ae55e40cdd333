"""The token by which the processes of a Ray know each other: where it is kept, and which Ray of this machine gets it.

Ray writes one to ~/.ray when it first starts, and a head started where there is one asks everybody for it. Of those who
join, Ray gives it only to the address "auto" by itself.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)

from orchestration.errors import InvalidRequestError

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def bring_token() -> None:
    """Let a Ray of one's own have a token where Ray can keep none: its processes inherit it, and nobody else has it."""
    if _lacks_token():
        os.environ[TOKENS[0]] = secrets.token_hex(32)


def keep_token() -> None:
    """Have a token where later commands find it. Raises InvalidRequestError where Ray can keep none."""
    if _lacks_token():
        raise InvalidRequestError(
            f"Ray keeps a token in the home folder, and none can be written there: set HOME, or {TOKENS[0]} for this "
            "and for all commands that are to join"
        )
    with _without_advice():
        enable_token_auth_by_default()
        ensure_token_if_auth_enabled(None, create_token_if_missing=True)


def give_token(address: str) -> None:
    """Show this machine's token, if it has one, to a head at ``HOST:PORT`` of this machine, and to no other unasked."""
    if _is_here(address):
        with _without_advice():
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _lacks_token() -> bool:
    """Whether Ray has no token and can keep none: it writes one to ~/.ray, and fails without a home."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or any(map(os.environ.get, TOKENS)):
        return False
    home = os.environ.get("HOME", "")
    folder = Path(home, ".ray") if os.path.isdir(os.path.join(home, ".ray")) else Path(home)
    kept = os.access(folder / "auth_token", os.R_OK) or os.access(folder, os.W_OK)
    return not (os.path.isabs(home) and kept)


def _is_here(address: str) -> bool:
    """Whether the host of ``HOST:PORT`` is this machine: nobody else is to be given its token unasked."""
    try:
        found = socket.getaddrinfo(address.rpartition(":")[0].strip("[]"), None)
    except (OSError, UnicodeError):
        return False
    here = {each.address.partition("%")[0] for interface in psutil.net_if_addrs().values() for each in interface}
    return {str(where[0]).partition("%")[0] for *_, where in found} <= here


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep what Ray logs about its token, and how to do without, from the user of a command."""
    logger = logging.getLogger(maybe_enable_token_auth_if_token_available.__module__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
