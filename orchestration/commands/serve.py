"""`morphogen serve` and `morphogen tokens`: the lake over HTTP, and who may use it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from datalake.registry.access import TokenLog
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json, print_table
from orchestration.console.output import say
from orchestration.errors import InvalidRequestError

TLS_HANDSHAKE_S = 10.0

tokens_app = typer.Typer(no_args_is_help=True)


def serve(
    host: Annotated[str, typer.Option(help="Address to bind; others than loopback take a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    redirect: Annotated[
        bool, typer.Option(help="Send readers of shards to S3 by presigned URLs, or stream them from here.")
    ] = True,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or range (CIDR) of a proxy whose X-Forwarded-For, -Proto, -Host and -Prefix are believed; "
            "may be given again. Without it: those on this machine."
        ),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path below which a proxy shows the server, such as /morphogen.")] = "",
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Serve the lake: an HTTP API under /api/v1 and pages for a browser. Any number of servers may serve one lake."""
    import uvicorn  # and FastAPI below: a second of import that no other command needs

    from orchestration.serve import ServeSettings, create_app
    from orchestration.serve.connections import BoundedProtocol, ConnectionLimits, Connections
    from orchestration.serve.forwarded import LOOPBACK, is_trusted, parse_networks, parse_root_path
    from orchestration.serve.logs import SafeFormatter

    proxies = tuple(trusted_proxy) if trusted_proxy else LOOPBACK
    networks, prefix = parse_networks(proxies), parse_root_path(root_path)

    opened = open_lake(lake)
    has_tokens = bool(TokenLog(opened.store, opened.system).records())
    if not has_tokens and not is_loopback(host):
        raise InvalidRequestError(
            f"--host {host}: found no token in lake {opened.uri}, and without one only loopback is served; "
            "run `morphogen tokens create NAME --role admin` first, or leave --host out"
        )
    if (tls_cert is None) != (tls_key is None):
        raise InvalidRequestError("--tls-cert and --tls-key belong together: give both or neither")
    for file in (tls_cert, tls_key):
        if file is not None and not file.is_file():
            raise InvalidRequestError(f"{file}: no such file; give the path of a PEM file")
    bound = _bind(host, port)
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    scheme = "https" if tls_cert else "http"
    shown = f"[{host}]" if ":" in host else host
    say(f"serving lake {opened.uri} at {scheme}://{shown}:{bound.getsockname()[1]}", err=True)
    if not has_tokens:
        say(
            "the lake has no tokens: bound to loopback only, and open to everybody on this machine; "
            "`morphogen tokens create NAME --role admin` makes the first one and closes it",
            err=True,
        )
    elif not tls_cert and not is_loopback(host):
        say("without --tls-cert tokens travel in the clear: put a proxy with TLS in front", err=True)
    settings = ServeSettings(redirect=redirect, root_path=prefix, trusted_proxies=proxies)
    connections = Connections(ConnectionLimits(), lambda host: is_trusted(host, networks))
    config = uvicorn.Config(
        create_app(opened, settings, loopback_only=not has_tokens),
        http=partial(BoundedProtocol, connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        proxy_headers=False,  # the application reads them itself, after the same rule
        log_config=None,
        server_header=False,
        h11_max_incomplete_event_size=32_768,
        timeout_graceful_shutdown=10,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[bound]))


class _Loop(asyncio.SelectorEventLoop):
    """Gives a client that begins TLS as long as one that begins a request; by default it would have a minute."""

    async def create_server(self, *args: Any, ssl: Any = None, **kwargs: Any) -> asyncio.Server:
        if ssl is not None:
            kwargs["ssl_handshake_timeout"] = TLS_HANDSHAKE_S
        return await super().create_server(*args, ssl=ssl, **kwargs)


def is_loopback(host: str) -> bool:
    """Whether every address that ``host`` means is this machine's own loopback."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise InvalidRequestError(
            f"--host {host!r}: no such address ({error}); give an address of this machine"
        ) from error
    return all(ipaddress.ip_address(address).is_loopback for address in found)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=512)
        # Connections inherit it. Without it the body waits 40 ms for the client to acknowledge the headers, since
        # asyncio sets it only on sockets that it made itself.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound
    except OSError as error:
        raise InvalidRequestError(
            f"--host {host} --port {port}: cannot be bound ({error.strerror}); give another port, or 0 for any"
        ) from error


@tokens_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Person or job; becomes the author of what is written.")],
    role: Annotated[
        Literal["reader", "writer", "admin"],
        typer.Option(help="reader: look. writer: also put parameters, move aliases. admin: also end tokens."),
    ] = "reader",
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="How long it lasts; for ever if not given.")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Make an access token and print it once: the lake keeps only its salted hash."""
    opened = open_lake(lake)
    lifetime = timedelta(days=days) if days else None
    token, text = TokenLog(opened.store, opened.system).create(name, role, lifetime=lifetime)
    if as_json:
        print_json({**asdict(token), "token": text})
        return
    say(f"token {token.id} for {token.name}, role {token.role}; it is shown only now:", err=True)
    say(text)


@tokens_app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    opened = open_lake(lake)
    found = TokenLog(opened.store, opened.system).list()
    if as_json:
        print_json([asdict(token) for token in found])
        return
    now = opened.system.timestamp()
    rows = [
        (token.id, token.name, token.role, "active" if token.active(now) else "ended", token.created, token.author)
        for token in found
    ]
    print_table(["id", "name", "role", "state", "created", "by"], rows)


@tokens_app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="The token's id, as `morphogen tokens list` shows it.")],
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """End a token for good; every server refuses it within a second."""
    opened = open_lake(lake)
    token = TokenLog(opened.store, opened.system).revoke(token_id)
    say(f"token {token.id} of {token.name} is revoked")
