"""Datasets, models and runs over HTTP: manifests, shards, files, lineage, curves."""

from __future__ import annotations

import base64
import hashlib
import io

import httpx
import pyarrow.parquet as pq

from datalake import Manifest, lineage
from tests.serve.conftest import Site


def test_a_dataset_is_read_from_afar(any_site: Site):
    api, lake = any_site.api("reader"), any_site.lake
    assert [item["name"] for item in api.get("/datasets").json()["items"]] == [
        version.name for version in lake.datasets.list()
    ]
    assert api.get("/datasets/grids").json()["digest"] == lake.datasets.get("grids").digest
    assert api.get("/datasets/grids/versions/good").json()["version"] == 1
    assert len(api.get("/datasets/grids/versions").json()["items"]) == 1
    manifest = lake.datasets.manifest("grids@1")
    found = api.get("/datasets/grids/versions/1/manifest")
    assert found.headers["etag"] == f'"{manifest.digest}"'
    assert "immutable" in found.headers["cache-control"]
    assert Manifest.model_validate(found.json()).digest == manifest.digest
    assert api.get(f"/manifests/{manifest.digest}").json() == found.json()
    shards = api.get("/datasets/grids/versions/good/shards", params={"limit": 2}).json()
    assert [item["key"] for item in shards["items"]] == [ref.key for ref in manifest.shards[:2]]
    rest = api.get("/datasets/grids/versions/good/shards", params={"limit": 2, "cursor": shards["next"]}).json()
    assert [item["index"] for item in rest["items"]] == [2]
    for ref, item in zip(manifest.shards, [*shards["items"], *rest["items"]], strict=True):
        file = api.get(any_site.servers[0].url + item["href"], follow_redirects=True)
        assert hashlib.sha256(file.content).hexdigest() == ref.sha256
        assert pq.read_table(io.BytesIO(file.content)).num_rows == ref.rows


def test_shards_stream_from_disk_with_their_digest(site: Site):
    ref = site.lake.datasets.manifest("grids@1").shards[0]
    path = "/datasets/grids/versions/1/shards/0"
    file = site.api("reader").get(path)
    assert (file.status_code, file.headers["etag"]) == (200, f'"{ref.sha256}"')
    assert file.headers["repr-digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(ref.sha256)).decode()}:"
    part = site.api("reader").get(path, headers={"Range": "bytes=4-11"})
    assert (part.status_code, part.content) == (206, file.content[4:12])
    assert site.api("reader").get(path, headers={"Range": "bytes=99999999-"}).status_code == 416


def test_shards_on_s3_are_redirected_to_a_presigned_url(s3_site: Site):
    ref = s3_site.lake.datasets.manifest("grids@1").shards[1]
    sent = s3_site.api("reader").get("/datasets/grids/versions/1/shards/1")
    assert (sent.status_code, sent.headers["cache-control"]) == (307, "no-store")
    url = sent.headers["location"]
    assert "X-Amz-Signature=" in url
    assert "X-Amz-Expires=900" in url
    secret = s3_site.tokens["reader"].rpartition("_")[2]
    assert secret not in url
    file = httpx.get(url)  # without our token: the signature is the permission
    assert hashlib.sha256(file.content).hexdigest() == ref.sha256
    assert httpx.get(url.replace("X-Amz-Signature=", "X-Amz-Signature=0")).status_code == 403


def test_models_files_lineage_and_runs(any_site: Site):
    api, lake = any_site.api("reader"), any_site.lake
    model = lake.models.get("language-model@1")
    found = api.get("/models/language-model/versions/1").json()
    assert (found["digest"], found["parents"]) == (model.digest, ["pre-pre-model@1"])
    assert [item["name"] for item in api.get("/models").json()["items"]] == ["language-model", "pre-pre-model"]
    assert [item["version"] for item in api.get("/models/language-model/versions").json()["items"]] == [1]
    for name, facts in model.files.items():
        file = api.get(f"/models/language-model/versions/1/files/{name}", follow_redirects=True)
        assert hashlib.sha256(file.content).hexdigest() == facts["sha256"]
    assert api.get("/models/language-model/versions/latest/lineage").json() == lineage(lake, "language-model")
    assert [item["name"] for item in api.get("/runs").json()["items"]] == ["language", "orphan", "pre-pre"]
    run = api.get("/runs/language").json()
    assert (run["status"], run["result"]["model"]) == ("finished", "language-model@1")
    assert "lease" not in api.get("/runs/language").text, "whoever has the lease can write to the run"
    records = api.get("/runs/language/metrics").json()["records"]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 41))
    lost = api.get("/runs/orphan").json()
    assert (lost["status"], lost["state"], lost["parent"]) == ("running", "lost", "language")
    assert lost["progress"] == {"done": 3, "of": 10, "unit": "shards", "note": "2 actors"}


def test_a_lost_shard_is_a_named_problem(site: Site):
    version = site.lake.datasets.get("lines@1")
    ref = site.lake.datasets.manifest(version).shards[0]
    kept = site.lake.store.get(ref.key)
    site.lake.store.delete(ref.key)
    try:
        lost = site.api("reader").get("/datasets/lines/versions/1/shards/0")
        assert (lost.status_code, lost.json()["type"]) == (500, "urn:morphogen:error:MissingShardError")
        with site.servers[0].client() as browser:
            browser.post("/login", data={"token": site.tokens["reader"]})
            page = browser.get("/datasets/lines/1/sequences")
            assert page.status_code == 200
            assert ref.key in page.text
    finally:
        site.lake.store.put_if_absent(ref.key, kept)


def test_a_computed_version_has_no_shards_and_is_shown_all_the_same(site: Site) -> None:
    api = site.api("reader")
    base = "/datasets/unstored/versions/1"
    assert api.get(base).json()["computed"] is True
    manifest = api.get(f"{base}/manifest").json()
    assert (manifest["format"], manifest["shards"], manifest["content_digest"]) == (2, [], None)
    assert api.get(f"{base}/shards").json() == {"items": [], "next": None}
    refused = api.get(f"{base}/shards/0")
    assert refused.status_code == 404
    assert "is computed and has no shards" in refused.json()["detail"]
    with site.servers[0].client(site.tokens["reader"]) as browser:
        page = browser.get("/datasets/unstored/1", headers={"Accept": "text/html"})
        sequences = browser.get("/datasets/unstored/1/sequences?first=7", headers={"Accept": "text/html"}).text
    assert page.status_code == 200
    for text in (page.text, sequences):
        assert "this server computes none" in text
        assert "<h2>Scores</h2>" not in text
