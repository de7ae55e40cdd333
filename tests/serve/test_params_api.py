"""Parameter sets over HTTP: preconditions with both heads, safe retries, replicas that agree."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from generator import parse_spec
from tests.serve.conftest import Site
from tests.serve.lake_content import SPEC

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    return f"set-{next(_numbers)}"


def spec(**changes: object) -> dict:
    return {**SPEC, **changes}


def test_put_get_history_diff_alias(any_site: Site, name: str):
    api = any_site.api()
    first = api.put(f"/params/{name}", json={"spec": spec(), "message": "why"})
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    assert first.headers["location"].endswith(f"/params/{name}/versions/1")
    stored = first.json()
    assert (stored["author"], stored["message"]) == ("the-writer", "why")
    assert stored["digest"] == parse_spec(spec()).digest
    again = api.put(f"/params/{name}", json={"spec": spec()})
    assert (again.status_code, again.json()["version"]) == (200, 1)
    assert api.put(f"/params/{name}", json={"spec": spec(hidden=5)}).json()["version"] == 2
    assert api.put(f"/params/{name}", json={"spec": spec(hidden=5), "force": True}).json()["version"] == 3
    assert api.put(f"/params/{name}/aliases/stable", json={"version": 2}).json()["version"] == 2

    other = any_site.api("reader", server=1)  # the other replica sees it all at once
    assert other.get(f"/params/{name}").json()["version"] == 3
    assert [item["version"] for item in other.get(f"/params/{name}/versions").json()["items"]] == [1, 2, 3]
    assert other.get(f"/params/{name}/versions/stable").json()["version"] == 2
    assert other.get(f"/params/{name}/versions/latest").json()["version"] == 3
    assert other.get(f"/params/{name}/aliases").json()["aliases"] == {"stable": 2}
    changes = other.get(f"/params/{name}/diff", params={"old": "1", "new": "stable"}).json()["changes"]
    assert changes == [{"path": "hidden", "old": 4, "new": 5, "added": False, "removed": False}]
    told = other.get(f"/params/{name}/changes", params={"after": 1}).json()
    assert [(item["what"], item["version"]) for item in told["items"]] == [
        ("version", 2),
        ("version", 3),
        ("alias", 2),
    ]
    assert any_site.lake.params.get(name).version == 3


def test_etags_spare_the_reader_what_it_has(site: Site):
    api = site.api("reader")
    for path in ("/params", "/params/tiny", "/params/tiny/versions/1", "/params/tiny/aliases", "/datasets", "/runs"):
        found = api.get(path)
        assert found.status_code == 200
        again = api.get(path, headers={"If-None-Match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_lost_race_is_told_both_heads(any_site: Site, name: str):
    api = any_site.api()
    path = f"/params/{name}"
    missing = api.put(path, json={"spec": spec()}, headers={"If-Match": '"3"'})
    assert (missing.status_code, missing.json()["expected"], missing.json()["found"]) == (412, 3, 0)
    assert api.put(path, json={"spec": spec()}, headers={"If-None-Match": "*"}).status_code == 201
    late = api.put(path, json={"spec": spec(hidden=5)}, headers={"If-None-Match": "*"})
    assert (late.status_code, late.json()["expected"], late.json()["found"]) == (412, 0, 1)
    assert late.headers["content-type"] == "application/problem+json"
    assert api.put(path, json={"spec": spec(hidden=5)}, headers={"If-Match": '"1"'}).status_code == 201
    stale = api.put(path, json={"spec": spec(hidden=6)}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["expected"], stale.json()["found"]) == (412, 1, 2)
    assert stale.headers["etag"] == '"2"'
    assert api.get(path).json()["version"] == 2

    alias = f"{path}/aliases/stable"
    assert api.put(alias, json={"version": 1}, headers={"If-Match": '"1"'}).json()["found"] == 0
    assert api.put(alias, json={"version": 1}, headers={"If-None-Match": "*"}).status_code == 200
    stale = api.put(alias, json={"version": 2}, headers={"If-Match": '"2"'})
    assert (stale.status_code, stale.json()["expected"], stale.json()["found"]) == (412, 2, 1)
    assert api.put(alias, json={"version": 2}, headers={"If-Match": '"1"'}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "*"}, 412),
        ({"If-Match": 'W/"1"'}, 412),
        ({"If-Match": '"1", "7"'}, 412),
        ({"If-Match": "1"}, 400),
        ({"If-None-Match": '"1"'}, 400),
        ({"If-Match": '"1"', "If-None-Match": "*"}, 400),
        ({"Idempotency-Key": ""}, 422),
        ({"Idempotency-Key": "a b"}, 422),
    ],
)
def test_preconditions_on_what_does_not_exist(site: Site, name: str, headers: dict, status: int):
    api = site.api()
    assert api.put(f"/params/{name}", json={"spec": spec()}, headers=headers).status_code == status
    assert api.get(f"/params/{name}").status_code == 404


def test_if_match_takes_a_list_and_a_star(site: Site, name: str):
    api = site.api()
    path = f"/params/{name}"
    api.put(path, json={"spec": spec()})
    assert api.put(path, json={"spec": spec(hidden=5)}, headers={"If-Match": '"7", "1"'}).status_code == 201
    assert api.put(path, json={"spec": spec(hidden=6)}, headers={"If-Match": "*"}).status_code == 201


def test_a_spec_is_refused_before_anything_is_stored(site: Site, name: str):
    api = site.api()
    for bad, named in (
        ({"colors": 1}, "colors"),
        ({"colours": 3}, "colours"),
        ({"family": "nac"}, "nac"),
        ({"band": {"score": "gzip-int32-v1", "low": 3.9, "high": 4.0}}, "0"),
    ):
        refused = api.put(f"/params/{name}", json={"spec": spec(**bad)})
        assert refused.status_code == 422
        assert named in refused.json()["detail"]
    for body in ({}, {"spec": 3}, {"spec": {}, "more": 1}, {"spec": spec(), "message": "x\u0007"}):
        assert api.put(f"/params/{name}", json=body).status_code == 422
    assert api.get(f"/params/{name}").status_code == 404
    assert name not in list(site.lake.store.children("params/"))


def test_a_retry_is_answered_as_the_first_was(any_site: Site, name: str):
    one, two = any_site.api(server=0), any_site.api(server=1)
    path = f"/params/{name}"
    key = {"Idempotency-Key": f"key-{name}", "If-None-Match": "*"}
    first = one.put(path, json={"spec": spec()}, headers=key)
    assert one.put(path, json={"spec": spec(hidden=5)}).status_code == 201
    retry = two.put(path, json={"spec": spec()}, headers=key)  # its precondition no longer holds, its answer does
    assert (retry.status_code, retry.json()) == (201, first.json())
    assert retry.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    reused = two.put(path, json={"spec": spec(hidden=6)}, headers=key)
    assert (reused.status_code, reused.json()["type"]) == (422, "urn:morphogen:error:KeyReusedError")
    assert [item["version"] for item in one.get(f"{path}/versions").json()["items"]] == [1, 2]
    # Another sender's key of the same text is another key.
    assert any_site.api("admin").put(path, json={"spec": spec(hidden=6)}, headers={**key, "If-None-Match": ""})

    moved = {"Idempotency-Key": f"alias-{name}"}
    assert one.put(f"{path}/aliases/a", json={"version": 1}, headers=moved).status_code == 200
    assert one.put(f"{path}/aliases/a", json={"version": 2}).status_code == 200
    assert two.put(f"{path}/aliases/a", json={"version": 1}, headers=moved).json()["version"] == 1
    assert one.get(f"{path}/aliases/a").json()["version"] == 2


def test_the_same_request_at_both_replicas_at_once_is_done_once(any_site: Site, name: str):
    key = {"Idempotency-Key": "once"}
    body = {"spec": spec(), "force": True}
    apis = [any_site.api(server=number % 2) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda api: api.put(f"/params/{name}", json=body, headers=key), apis))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["version"] for answer in answers} == {1}
    assert len(any_site.lake.params.history(name)) == 1


def test_of_racing_replicas_one_wins_each_version(any_site: Site, name: str):
    apis = [any_site.api(server=number % 2) for number in range(6)]
    apis[0].put(f"/params/{name}", json={"spec": spec()})

    def race(number: int) -> int:
        body = {"spec": spec(hidden=5 + number)}
        return apis[number].put(f"/params/{name}", json=body, headers={"If-Match": '"1"'}).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(race, range(6)))
    assert statuses == [201, *[412] * 5]
    assert any_site.lake.params.get(name).version == 2


def test_pages_of_a_list_leave_nothing_out(site: Site, name: str):
    api = site.api()
    for hidden in range(4, 9):
        api.put(f"/params/{name}", json={"spec": spec(hidden=hidden)})
    seen, cursor = [], None
    while True:
        page = api.get(f"/params/{name}/versions", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) <= 2
        seen += [item["version"] for item in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == [1, 2, 3, 4, 5]
    names, cursor = [], None
    while True:
        page = api.get("/params", params={"limit": 1} | ({"cursor": cursor} if cursor else {})).json()
        names += [item["name"] for item in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert names == sorted(site.lake.store.children("params/"))
    for bad in ("!!", "AAAA////", "x" * 401, "YWJj"):
        assert api.get(f"/params/{name}/versions", params={"cursor": bad}).status_code in (400, 422)
    assert api.get("/params", params={"limit": 0}).status_code == 422
