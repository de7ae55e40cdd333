"""What was attacked and held: it must go on holding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from datalake import Lake
from tests.serve.conftest import API, ROOT, Site
from tests.serve.lake_content import SPEC, add_run, add_synthetic, put

SHARD = "/datasets/grids/versions/1/shards/0"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&{{7*7}}"

_VISIT = """
import asyncio, re, sys
import httpx
from datalake import Lake
from orchestration.serve import create_app

async def visit():
    app = create_app(Lake.open(sys.argv[1]), loopback_only=True)
    waiting, seen = ["/", "/login", "/api/v1/openapi.json", "/api/v1/runs/language/metrics"], set()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        while waiting:
            path = waiting.pop().partition("#")[0]
            if path in seen:
                continue
            seen.add(path)
            page = await client.get(path, headers={"Accept": "text/html"})
            assert page.status_code == 200, (path, page.status_code)
            waiting += re.findall(r'href="(/[^"]*)"', page.text.replace("&amp;", "&"))
        body = {"spec": {"grid": [4, 4], "colors": 2, "seq_len": 16}}
        assert (await client.put("/api/v1/params/light", json=body)).status_code == 201
    assert len(seen) > 20, seen
    heavy = {"torch", "ray", "numba", "scipy", "transformers", "trainer"} & set(sys.modules)
    assert not heavy, heavy

asyncio.run(visit())
"""


def test_every_page_without_torch_or_ray(filled: Path, tmp_path: Path):
    import shutil

    folder = shutil.copytree(filled, tmp_path / "lake")
    subprocess.run([sys.executable, "-c", _VISIT, str(folder)], cwd=ROOT, check=True)


def test_of_50_writers_on_one_etag_one_wins(site: Site):
    path = "/params/fifty"
    assert site.api().put(path, json={"spec": SPEC}).status_code == 201

    def write(number: int) -> int:
        body = {"spec": SPEC, "force": True, "message": f"writer {number}"}
        with site.servers[number % 2].client(site.tokens["writer"]) as client:
            return client.put(API + path, json=body, headers={"If-Match": '"1"'}).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(write, range(50)))
    assert statuses == [201, *[412] * 49]
    assert site.lake.params.get("fifty").version == 2


def resident_kib(pid: int) -> int:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_memory_over_many_requests(site: Site, count: int):
    server = site.servers[1]
    requests: list[Callable[[httpx.Client, int], httpx.Response]] = [
        lambda client, number: client.get(f"{API}/params/nothing-{number}"),
        lambda client, number: client.get(f"{API}/params", headers={"If-None-Match": f'"{number}"'}),
        lambda client, number: client.put(f"{API}/params/hostile", json={"spec": {f"field{number}": number}}),
        lambda client, number: client.get(API + SHARD, headers={"Range": f"bytes=0-{number}"}),
        lambda client, number: client.get("/nowhere", headers={"Accept": "text/html", "Authorization": f"x{number}"}),
    ]

    def ask(first: int, last: int) -> None:
        with server.client(site.tokens["writer"]) as client:
            for number in range(first, last):
                assert requests[number % len(requests)](client, number).status_code < 500

    ask(0, 150)
    before = resident_kib(server.pid)
    ask(150, 150 + count)
    assert resident_kib(server.pid) - before < 20_000


def test_no_page_runs_what_somebody_wrote(tmp_path: Path):
    from starlette.testclient import TestClient

    from orchestration.serve import create_app

    lake = Lake.open(str(tmp_path / "lake"))
    put(lake, "tiny", SPEC, HOSTILE)
    data = add_synthetic(lake, "grids", SPEC, 8, params="tiny@1")
    model = add_run(lake, "train", [data])
    lake.models.publish(
        "other",
        {"config.json": b"{}"},
        run="train",
        datasets=[data],
        metrics={HOSTILE: {"loss": 1.0, HOSTILE: HOSTILE}},
        message=HOSTILE,
    )
    failed = lake.runs.start("failed", "train", {HOSTILE: HOSTILE}, {"datasets": [data], "note": HOSTILE})
    failed.send_heartbeat(1, {"done": 1, "of": 2, "unit": HOSTILE, "note": HOSTILE})
    failed.add_fault(HOSTILE, {HOSTILE: HOSTILE})
    failed.fail(HOSTILE)
    running = lake.runs.start("running", "train", {}, {}, about={"parent": HOSTILE, "holder": {"host": HOSTILE}})
    running.send_heartbeat(1, {"done": 1, "of": 2, "unit": HOSTILE, "note": HOSTILE, "per_second": 0.5})
    name, _, version = model.partition("@")
    with TestClient(create_app(lake, loopback_only=True), base_url="http://localhost") as client:
        for path in (
            "/", "/params", "/params/tiny", "/params/tiny/1", "/datasets", "/datasets/grids", "/datasets/grids/1",
            "/models", "/models/other", "/models/other/1", f"/models/{name}/{version}", "/runs", "/runs/failed",
            "/runs/running", f"/params/{HOSTILE}", f"/login?next=/{HOSTILE}", f"/{HOSTILE}", f"/runs?cursor={HOSTILE}",
        ):  # fmt: skip
            page = client.get(path, headers={"Accept": "text/html"})
            assert "<script>alert" not in page.text, path
            assert "<img src=x" not in page.text, path
            assert "&amp;49" not in page.text, path
        assert "&lt;script&gt;" in client.get("/").text
