"""Who may do what: roles, revocation, a browser's sessions, and a server without tokens."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from datalake import Lake, System
from datalake.registry.access import AccessControl, AccessError, TokenLog
from orchestration.cli import main
from tests.serve.conftest import API, Site
from tests.serve.lake_content import SPEC

PLACES = {
    "{name}": "tiny",
    "{selector}": "1",
    "{alias}": "stable",
    "{index}": "0",
    "{filename}": "config.json",
    "{token_id}": "0" * 12,
    "{digest}": "0" * 64,
}


def operations(site: Site) -> list[tuple[str, str]]:
    """(method, path with places filled in) of every operation in the schema."""
    schema = site.api("reader").get("/openapi.json").json()
    found = []
    for path, methods in schema["paths"].items():
        for place, value in PLACES.items():
            path = path.replace(place, value)
        found += [(method.upper(), path.removeprefix(API)) for method in methods]
    return found


def body_of(path: str) -> dict:
    return {"version": 1} if "aliases" in path else {"spec": SPEC}


def test_a_reader_cannot_write_and_a_writer_cannot_administer(any_site: Site):
    writes = [(method, path) for method, path in operations(any_site) if method != "GET"]
    assert len(writes) == 9
    for method, path in writes:
        refused = any_site.api("reader").request(method, path, json=body_of(path))
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:morphogen:error:RoleError"), path
    assert any_site.api("writer").request("DELETE", f"/tokens/{'0' * 12}").status_code == 403
    assert any_site.api("writer").get("/tokens").status_code == 403
    assert any_site.api("admin").get("/tokens").status_code == 200
    assert any_site.lake.params.get("tiny").version == 2


def test_without_a_token_nothing_is_told(site: Site):
    public = {"/health", "/ready"}
    api = site.servers[0].client()
    for headers in ({}, {"Authorization": "Bearer mg_000000000000_" + "0" * 64}, {"Authorization": "Basic YTpi"}):
        for method, path in operations(site):
            answer = api.request(method, API + path, json=body_of(path), headers=headers)
            if path in public:
                assert answer.status_code == 200
                continue
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert set(answer.json()) == {"type", "title", "status", "detail", "instance"}


def test_a_revoked_token_stops_at_every_replica(any_site: Site):
    token, text = TokenLog(any_site.lake.store, any_site.lake.system).create("brief", "admin")
    apis = [server.client(text) for server in any_site.servers]
    assert len({server.pid for server in any_site.servers}) == 2
    for api in apis:
        assert api.get(API + "/params").status_code == 200
    assert apis[0].delete(f"{API}/tokens/{token.id}").json()["revoked"]
    deadline = time.monotonic() + 30
    while any(api.get(API + "/params").status_code != 401 for api in apis):
        assert time.monotonic() < deadline, "a revoked token still works"
        time.sleep(0.1)


def test_the_lake_and_the_log_hold_no_secret(site: Site):
    secrets = [text.rpartition("_")[2] for text in site.tokens.values()]
    stored = b"".join(site.lake.store.get(key) for key in site.lake.store.list("access/"))
    assert len(stored) > 100
    for secret in secrets:
        assert secret.encode() not in stored
        assert all(secret not in server.log for server in site.servers)
    shown = site.api("admin").get("/tokens").text
    assert "hash" not in shown
    assert "salt" not in shown


def test_tokens_expire_and_sessions_die_with_their_token(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    log = TokenLog(lake.store, lake.system)
    access = AccessControl(lake.store, lake.system, refresh_s=0.0)
    assert not access.configured()
    token, text = log.create("ada", "writer", lifetime=timedelta(days=1))
    assert access.configured()
    assert access.authenticate(text).name == "ada"
    session, cookie = access.open_session(token, timedelta(hours=1))
    assert access.authenticate(cookie, session=True).role == "reader"
    with pytest.raises(AccessError):
        access.authenticate(cookie)  # a session is no bearer token
    with pytest.raises(AccessError):
        access.authenticate(text[:-1] + ("0" if text[-1] != "0" else "1"))

    later = System(clock=lambda: datetime.now(UTC) + timedelta(hours=2))
    then = AccessControl(lake.store, later, refresh_s=0.0)
    assert then.authenticate(text).id == token.id
    with pytest.raises(AccessError):
        then.authenticate(cookie, session=True)
    tomorrow = AccessControl(lake.store, System(clock=lambda: datetime.now(UTC) + timedelta(days=2)), refresh_s=0.0)
    with pytest.raises(AccessError):
        tomorrow.authenticate(text)
    log.revoke(token.id)
    with pytest.raises(AccessError):
        access.authenticate(cookie, session=True)
    assert access.configured(), "revoking the last token must not open the API"
    assert session.parent == token.id


def test_a_browser_logs_in_reads_and_logs_out(site: Site):
    with site.servers[0].client() as browser:
        sent = browser.get("/params/tiny?before=1", headers={"Accept": "text/html"})
        assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Fparams%2Ftiny%3Fbefore%3D1")
        wrong = browser.post("/login", data={"token": "mg_nothing", "next": "/"})
        assert wrong.status_code == 401
        assert "unknown" in wrong.text
        right = browser.post("/login", data={"token": site.tokens["admin"], "next": "/params/tiny"})
        assert (right.status_code, right.headers["location"]) == (303, "/params/tiny")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert site.tokens["admin"] not in cookie
        assert browser.get("/params/tiny").status_code == 200
        other = httpx.get(site.servers[1].url + "/params/tiny", cookies=dict(browser.cookies))
        assert other.status_code == 200
        # The cookie reads the API too, but whatever role the token has, it cannot write.
        assert browser.get(API + "/params").status_code == 200
        assert browser.put(API + "/params/tiny", json={"spec": SPEC}).status_code == 403
        assert browser.get(API + "/tokens").status_code == 403
        kept = dict(browser.cookies)
        assert browser.post("/logout").status_code == 303
        assert httpx.get(site.servers[0].url + API + "/params", cookies=kept).status_code == 401


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_a_login_leads_nowhere_else(site: Site, target: str):
    answer = site.servers[0].client().post("/login", data={"token": site.tokens["reader"], "next": target})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_another_sites_form_is_refused(site: Site, headers: dict):
    data = {"token": site.tokens["reader"]}
    assert site.servers[0].client().post("/login", data=data, headers=headers).status_code == 400


def test_without_tokens_the_server_is_open_to_this_machine_only(open_site: Site):
    server = open_site.servers[0]
    assert "no tokens: bound to loopback only" in server.log
    assert server.url.startswith("http://127.0.0.1:")
    api = open_site.api()
    assert api.get("/ready").json()["tokens"] is False
    assert api.get("/params").status_code == 200
    rebound = api.get("/params", headers={"Host": "evil.example"})  # another site's name that points here
    assert rebound.status_code == 400


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_without_tokens_no_other_address_is_bound(tmp_path, capsys):
    lake = str(tmp_path / "lake")
    line = refused(capsys, "serve", "--host", "0.0.0.0", "--lake", lake)
    assert "tokens create" in line
    assert not (tmp_path / "lake").exists()
    assert "belong together" in refused(capsys, "serve", "--tls-cert", "x.pem", "--lake", lake)


def test_tokens_are_made_listed_and_revoked_by_command(tmp_path, capsys):
    lake = str(tmp_path / "lake")

    def call(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--lake", lake, "tokens", *arguments])
        assert not ended.value.code
        printed = capsys.readouterr()
        return printed.out, printed.err

    text, told = call("create", "ada", "--role", "writer", "--days", "30")
    opened = Lake.open(lake)
    token = AccessControl(opened.store, opened.system, refresh_s=0.0).authenticate(text.strip())
    assert (token.name, token.role, token.id in told) == ("ada", "writer", True)
    assert "active" in call("list")[0]
    call("revoke", token.id)
    assert "ended" in call("list")[0]
    assert text.strip() not in call("list", "--json")[0]
    assert "no token" in refused(capsys, "--lake", lake, "tokens", "revoke", "0" * 12)
    assert "allowed" in refused(capsys, "--lake", lake, "tokens", "create", "../x")


def test_sessions_are_signed_and_only_an_early_end_is_stored(lake_uri: str):
    """Hundreds of log-ins leave nothing; a log-out leaves one object until its session would have expired."""
    moment = [datetime(2026, 11, 27, 12, 0, tzinfo=UTC)]
    lake = Lake.open(lake_uri, System(clock=lambda: moment[0]))
    token, text = TokenLog(lake.store, lake.system).create("ada", "admin")
    here, there = (AccessControl(lake.store, lake.system, refresh_s=0.0) for _ in range(2))
    before = [*lake.store.list()]
    opened = [here.open_session(here.authenticate(text), timedelta(hours=12)) for _ in range(200)]
    assert [*lake.store.list()] == before
    assert len({session.id for session, _ in opened}) == 200
    session, cookie = opened[0]
    assert (session.role, session.parent, session.name) == ("reader", token.id, "ada")
    assert there.authenticate(cookie, session=True) == session, "another replica can check it"

    here.close_session(session)
    for replica in (here, there):
        with pytest.raises(AccessError):
            replica.authenticate(cookie, session=True)
        assert replica.authenticate(opened[1][1], session=True).id == opened[1][0].id
    [ended] = {*lake.store.list()} - {*before}
    assert len(lake.store.get(ended)) < 10
    moment[0] += timedelta(hours=14)
    later, _ = here.open_session(here.authenticate(text), timedelta(hours=12))
    here.close_session(later)
    assert len({*lake.store.list()} - {*before}) == 1
    assert not lake.store.exists(ended)


def test_a_session_that_was_tampered_with_is_refused(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    log = TokenLog(lake.store, lake.system)
    access = AccessControl(lake.store, lake.system, refresh_s=0.0)
    token, text = log.create("ada", "reader")
    other, _ = log.create("eve", "admin")
    _, cookie = access.open_session(token, timedelta(minutes=1))
    kind, parent, number, begins, ends, signature = cookie.split("_")
    forged = [
        [kind, other.id, number, begins, ends, signature],
        [kind, parent, number, begins, str(int(ends) + 86_400), signature],
        [kind, parent, "0" * 32, begins, ends, signature],
        [kind, parent, number, begins, ends, "0" * 64],
        [kind, "0" * 12, number, begins, ends, signature],
        [kind, parent, number, begins, ends],
        ["mg", parent, number, begins, ends, signature],
        [],
    ]
    assert access.authenticate(cookie, session=True).id == number
    for parts in forged:
        with pytest.raises(AccessError):
            access.authenticate("_".join(parts), session=True)
    for bearer in (cookie, text[:-1]):
        with pytest.raises(AccessError):
            access.authenticate(bearer)
    log.revoke(token.id)
    with pytest.raises(AccessError):
        access.authenticate(cookie, session=True)
