"""Retiring over HTTP: who may, what is refused, retries, and what becomes of what was retired."""

from __future__ import annotations

import itertools

import pytest

from datalake import Lake
from datalake.errors import InUseError, NotFoundError
from datalake.registry.http_client import RegistryClient
from orchestration.runs.owner import this_process
from tests.datalake.helpers import make_dataset
from tests.serve.conftest import Site
from tests.serve.lake_content import add_run, put

_numbers = itertools.count(1)


def fill(lake: Lake) -> str:
    """NAME@1 of everything, of which each depends on the one before; returns the name."""
    name = f"old-{next(_numbers)}"
    put(lake, name, {"family": "dyck", "seq_len": 64})
    make_dataset(lake, name, params=f"{name}@1")
    add_run(lake, name, [f"{name}@1"])
    return name


def test_everything_is_retired_from_the_top_and_stays_where_it_is_read(any_site: Site):
    api, reader = any_site.api(), any_site.api("reader", server=1)
    name = fill(any_site.lake)
    paths = [f"/models/{name}-model/versions/1", f"/runs/{name}", f"/datasets/{name}/versions/1"]
    paths.append(f"/params/{name}/versions/1")
    file, shard = f"{paths[0]}/files/config.json", f"{paths[2]}/shards/0"
    assert reader.get(file, follow_redirects=True).status_code == 200
    before = [reader.get(path) for path in paths]
    for path in paths:
        assert reader.delete(path).status_code == 403
    for path, found in zip(reversed(paths), reversed(before), strict=True):
        if path != paths[0]:
            refused = api.delete(path)
            assert (refused.status_code, refused.json()["type"]) == (409, "urn:morphogen:error:InUseError"), path
            assert "--force" in refused.json()["detail"]
            assert reader.get(path).headers["etag"] == found.headers["etag"]
    for path, found in zip(paths, before, strict=True):
        done = api.delete(path, params={"message": "no use"})
        assert done.status_code == 200, done.text
        assert done.json()["retired"], path
        now = reader.get(path, headers={"If-None-Match": found.headers["etag"]})
        assert now.status_code == 200, "what a reader has kept is not what it is now"
        assert now.json()["retired"]
        assert api.delete(path).json() == now.json(), "twice changes nothing"
    assert reader.get(paths[1]).json()["state"] == "retired"
    for path in (file, shard):
        gone = reader.get(path)
        assert (gone.status_code, gone.json()["type"]) == (410, "urn:morphogen:error:RetiredError")
    assert reader.get(f"{paths[0]}/lineage").json()["model"]["retired"]
    told = reader.get(f"/params/{name}/changes", params={"after": 0}).json()["items"]
    assert [(item["what"], item["author"], item["message"]) for item in told[1:]] == [
        ("retired", "the-writer", "no use")
    ]
    assert api.put(f"/datasets/{name}/aliases/best", json={"version": 1}).status_code == 410
    for page in (
        f"/models/{name}-model/1",
        f"/datasets/{name}/1",
        f"/datasets/{name}/1/sequences",
        f"/params/{name}/1",
    ):
        html = any_site.servers[0].client(any_site.tokens["reader"]).get(page)
        assert (html.status_code, "retired" in html.text) == (200, True), page


def test_force_names_what_it_forces_and_conditions_hold(site: Site):
    api, name = site.api(), fill(site.lake)
    path = f"/datasets/{name}/versions/1"
    assert api.delete(path, params={"force": "yes"}).status_code == 400
    assert api.delete(f"/datasets/{name}/versions/latest").status_code == 400
    assert api.delete(f"/datasets/{name}/versions/7").status_code == 404
    assert api.delete("/runs/nothing").status_code == 404
    assert api.delete(path, params={"force": f"{name}@1"}, headers={"If-Match": '"2"'}).status_code == 412
    key = {"Idempotency-Key": "once", "If-Match": '"1"'}
    first = api.delete(path, params={"force": f"{name}@1"}, headers=key)
    assert (first.status_code, first.headers["etag"]) == (200, '"1-retired"')
    again = site.api(server=1).delete(path, params={"force": f"{name}@1"}, headers=key)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    late = api.delete(path, headers={"If-Match": '"1"'})
    assert (late.status_code, late.json()["expected"], late.json()["found"]) == (412, 1, 0)


def test_the_latest_version_is_the_latest_that_is_not_retired(site: Site):
    """What a reader is given as the head is what a writer's If-Match is held against."""
    api, name = site.api(), fill(site.lake)
    assert api.put(f"/params/{name}", json={"spec": {"family": "dyck", "seq_len": 32}}).json()["version"] == 2
    assert api.delete(f"/params/{name}/versions/2").status_code == 200
    head = api.get(f"/params/{name}")
    assert (head.json()["version"], head.headers["etag"]) == (1, '"1"')
    body = {"spec": {"family": "dyck", "seq_len": 16}}
    assert api.put(f"/params/{name}", json=body, headers={"If-Match": '"1"'}).json()["version"] == 3


def test_a_run_that_somebody_works_on_is_refused(site: Site):
    run = site.lake.runs.start("worked-on", "train", {}, {}, about={"holder": this_process()})
    run.send_heartbeat(1, {})
    refused = site.api().delete("/runs/worked-on", params={"force": "worked-on"})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:morphogen:error:RunHeldError")
    site.lake.runs.start("left", "train", {}, {}, about={"holder": this_process() | {"started": 0}})
    assert site.api().delete("/runs/left").json()["state"] == "retired", "its owner is gone"


def test_the_client_retires(site: Site):
    name = fill(site.lake)
    with RegistryClient(site.servers[0].url, site.tokens["writer"]) as client:
        with pytest.raises(InUseError, match=f"dataset {name}@1"):
            client.retire(name, 1)
        with pytest.raises(NotFoundError):
            client.retire(name, 2)
        assert client.retire(name, 1, "wrong", force=True).retired
        assert [version.retired for version in client.history(name)] == [True]
