"""What killed processes and people leave in a lake: a name exists when it has an entry, and lists show those alone."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from starlette.testclient import TestClient

from datalake.clock import System
from datalake.errors import LakePathError, NotFoundError
from datalake.lake import Lake
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.maintenance.lineage import lineage
from datalake.registry.access import TokenLog
from orchestration.runs.view import view_runs
from orchestration.serve.app import create_app
from tests.datalake.helpers import make_manifest
from tests.other_user import as_nobody, open_folder

KINDS = ("params", "datasets", "models", "runs", "access")


def fill(lake: Lake) -> None:
    lake.params.put("real", {"family": "nca"})
    lake.datasets.commit("real", make_manifest(lake))
    lake.runs.start("real", "train", {}, {})
    lake.models.publish("real", {"config.json": b"{}"}, run="real")


def litter_folder(root: Path) -> None:
    """Empty folders, as a kill between making one and linking the first entry leaves them, and files of others."""
    for kind in KINDS:
        for ghost in ("ghost", ".hidden", "with space", "a-first", "zz-last"):
            (root / kind / ghost).mkdir(parents=True)
        (root / kind / "nested" / "deeper").mkdir(parents=True)
        (root / kind / "nested" / "deeper" / "00000001.json").write_text("{}")
        (root / kind / "foreign").mkdir()
        (root / kind / "foreign" / "README.md").write_text("mine")
        (root / kind / "a-file").write_text("mine")
        (root / kind / "Icon\r").write_text("")
        (root / kind / "dangling").symlink_to(root / "nowhere")
        real = root / kind / "real"
        if real.is_dir():
            for name in (
                "00000001.json~",
                "00000009.json.swp",
                "99999999.txt",
                ".nfs0001",
                "notes",
                "Kopie von x.json",
            ):
                (real / name).write_text("mine")
            (real / "00000007.json").mkdir()
    for folder in ("data", "specs", "checkpoints", "manifests", ".tmp"):
        (root / folder / "empty").mkdir(parents=True, exist_ok=True)
        (root / folder / "Thumbs db").write_text("")
    (root / "lost+found").mkdir(mode=0)
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(root / "data", os.O_RDONLY)
        try:
            one.bind(f"/proc/self/fd/{folder}/socket")  # a path of its own may be too long for an address
        finally:
            os.close(folder)


def litter_bucket(uri: str) -> None:
    """What consoles and other tools put into a bucket: folder markers and objects with names of their own."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.session.Session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    for kind in KINDS:
        for key in (
            f"{kind}/ghost/", f"{kind}/foreign/README.md", f"{kind}/with space/x", f"{kind}/real/99999999.txt",
            f"{kind}/real/00000001.json~", f"{kind}/nested/deeper/00000001.json", f"{kind}/a-file",
        ):  # fmt: skip
            client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"")
    client.put_object(Bucket=bucket, Key=f"{prefix}/data/not one of ours", Body=b"")


def test_lists_show_what_has_an_entry_and_nothing_else(lake_uri: str, tmp_path: Path) -> None:
    lake = Lake.open(lake_uri)
    fill(lake)
    litter_bucket(lake_uri) if lake_uri.startswith("s3://") else litter_folder(tmp_path / "lake")
    lake = Lake.open(lake_uri)

    assert [item.name for item in lake.params.list()] == ["real"]
    assert [item.name for item in lake.datasets.list()] == ["real"]
    assert [item.name for item in lake.models.list()] == ["real"]
    assert lake.runs.list() == ["real"]
    assert [view["name"] for view in view_runs(lake)] == ["real"]
    assert lineage(lake, "real")["run"]["name"] == "real"
    for ghost in ("ghost", "foreign", "nested"):
        with pytest.raises(NotFoundError, match=ghost):
            lake.params.get(ghost)
        with pytest.raises(NotFoundError, match=ghost):
            lake.runs.get(ghost)
    assert TokenLog(lake.store, lake.system).list() == []

    # The log goes on after its newest entry, whatever lies beside it.
    assert lake.params.put("real", {"family": "eca"}).version == 2
    assert lake.params.put("ghost", {"family": "nca"}).version == 1
    assert [item.ref for item in lake.params.list()] == ["ghost@1", "real@2"]

    with TestClient(create_app(lake, loopback_only=True), base_url="http://127.0.0.1") as client:
        for kind in ("params", "datasets", "models", "runs"):
            first = client.get(f"/api/v1/{kind}?limit=1")
            assert first.status_code == 200, first.text
            names = [item["name"] for item in first.json()["items"]]
            assert names == (["ghost"] if kind == "params" else ["real"])
            assert (first.json()["next"] is None) == (kind != "params"), "a page does not end in ghosts"
            page = client.get(f"/{kind}")
            assert page.status_code == 200
            assert "nested" not in page.text
        assert "foreign" not in client.get("/").text

    later = Lake(lake.store, System(clock=lambda: lake.system.clock() + timedelta(days=30)))
    found = find_garbage(later)
    assert [info.key for info in found.objects] == []
    sweep(later, found)


def test_folders_of_a_lake_that_may_not_be_read_are_named() -> None:
    with open_folder() as folder:
        lake = Lake.open(str(folder / "lake"))
        lake.params.put("real", {"family": "nca"})
        for closed in (folder / "lake" / "params", folder / "lake"):
            closed.chmod(0)
            try:
                for use in (
                    lambda lake: lake.params.list(),
                    lambda lake: lake.params.get("real"),
                    lambda lake: lake.store.exists("params/real/00000001.json"),
                    lambda lake: lake.params.put("real", {"family": "eca"}),
                    find_garbage,
                ):
                    with pytest.raises(LakePathError, match="not allowed to use"):
                        as_nobody(lambda use=use: use(Lake.open(str(folder / "lake"))))
            finally:
                closed.chmod(0o755)
