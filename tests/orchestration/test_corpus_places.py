"""Corpora at web addresses and on a hub of data sets, of servers that answer, and of such as do not."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake import Lake
from orchestration.corpus import remote
from orchestration.corpus.add import CorpusResult, add_corpus
from orchestration.corpus.places import find_files
from orchestration.corpus.remote import without_secrets
from orchestration.errors import CorpusError
from tests.web_server import WebServer, web_server

TEXTS = [f"document {number}\n" + f"{number} größe {number * 7}\n" * (number % 50 + 5) for number in range(60)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
SIZES = {"seq_len": 64, "shard_sequences": 16, "heldout_fraction": 0.2}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "in.jsonl").write_bytes(LINES)
    (folder / "in.jsonl.gz").write_bytes(gzip.compress(LINES))
    pq.write_table(pa.table({"text": TEXTS}), folder / "in.parquet", row_group_size=20)
    data = folder / "datasets" / "lab" / "web" / "data"
    (data / "more").mkdir(parents=True)
    for number in range(3):
        part = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[number::3]).encode()
        (data / f"{number}.jsonl.gz").write_bytes(gzip.compress(part))
    (data / "more" / "card.md").write_text("what is in it\n" * 20)
    with web_server(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def well(web: WebServer) -> None:
    web.fault = ""


def content(lake: Lake, result: CorpusResult) -> str:
    return lake.datasets.manifest(result.train).content_digest


def test_web_addresses_give_the_rows_of_the_files(lake: Lake, web: WebServer) -> None:
    for name in ("in.jsonl", "in.jsonl.gz", "in.parquet"):
        here = add_corpus(lake, "here", web.folder / name, **SIZES)
        for address in (f"{web.address}/{name}", f"{web.address}/{name}?signature=secret&x=1.txt"):
            there = add_corpus(lake, "there", address, **SIZES)
            assert content(lake, there) == content(lake, here)
    found = find_files([f"{web.address}/in.jsonl?a=1", f"{web.address}/in.jsonl?a=2", f"{web.address}/in.parquet?b=3"])
    assert list(found) == ["in.jsonl?a=1", "in.jsonl?a=2", "in.parquet"], "what alone tells two apart is kept"


def test_a_server_without_ranges_is_read_to_its_end(lake: Lake, web: WebServer) -> None:
    here = add_corpus(lake, "here", web.folder / "in.jsonl.gz", **SIZES)
    web.fault = "no ranges"
    assert content(lake, add_corpus(lake, "there", f"{web.address}/in.jsonl.gz", **SIZES)) == content(lake, here)


FAULTS = ("silent", "stalls", "cut short", "404", "403", "500", "endless redirects", "garbage", "wrong range")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_is_named_and_not_waited_for(
    lake: Lake, web: WebServer, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.2)
    web.fault = fault
    with pytest.raises(CorpusError, match=r"in.jsonl.gz cannot be read \(.+\); mend") as raised:
        add_corpus(lake, "there", f"{web.address}/in.jsonl.gz?signature=secret", **SIZES)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)
    assert not list(lake.store.list("datasets/"))


def test_an_address_where_nobody_listens_says_so(lake: Lake) -> None:
    with pytest.raises(CorpusError, match=r"x.jsonl cannot be read \(.*(refused|[Cc]onnect)"):
        add_corpus(lake, "there", "http://user:secret@127.0.0.1:9/x.jsonl", **SIZES)


def test_places_that_need_a_package_say_so(lake: Lake) -> None:
    for place, package in (("gs://bucket/in/*.jsonl", "gcsfs"), ("abfs://bucket/in", "adlfs")):
        with pytest.raises(CorpusError, match=rf"{place.partition(':')[0]}://.*{package}"):
            add_corpus(lake, "there", place, **SIZES)
    with pytest.raises(CorpusError, match=r"zip://.*cannot be read \(No such file"):
        add_corpus(lake, "there", "zip://in.jsonl::/nowhere/in.zip", **SIZES)


def test_secrets_are_taken_out_of_addresses() -> None:
    said = without_secrets("404, url='https://u:p@host:1/a%20b/c.gz?sig=1#x' (s3://bucket/a?b.txt) http://h?q")
    assert said == "404, url='https://host:1/a%20b/c.gz' (s3://bucket/a?b.txt) http://h"


PROGRAM = """
import json, sys
from pathlib import Path
from datalake import Lake
from orchestration.corpus.add import add_corpus
from orchestration.corpus import remote
from orchestration.errors import CorpusError
from huggingface_hub import constants
import huggingface_hub.hf_file_system as files, functools
remote.SILENCE_S = constants.HF_HUB_DOWNLOAD_TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT = 0.3
files.http_backoff = functools.partial(files.http_backoff, max_retries=1, base_wait_time=0.1)
lake = Lake.open(sys.argv[1])
for line in sys.stdin:
    try:
        made = add_corpus(lake, "there", json.loads(line), seq_len=64, shard_sequences=16, heldout_fraction=0.2)
        print(json.dumps([made.train.digest, made.documents]), flush=True)
    except CorpusError as error:
        print(json.dumps(str(error)), flush=True)
"""


def test_a_hub_is_listed_and_read_and_its_faults_named(lake: Lake, web: WebServer, tmp_path: Path) -> None:
    """Hugging Face's own client, which takes its address from the environment."""
    folder = web.folder / "datasets" / "lab" / "web"
    expected = {
        "/data/*.gz": add_corpus(lake, "here", sorted((folder / "data").glob("*.gz")), **SIZES),
        "/data": add_corpus(lake, "here", folder / "data", **SIZES),
        "@main/data/1.jsonl.gz": add_corpus(lake, "here", folder / "data" / "1.jsonl.gz", **SIZES),
    }
    environment = os.environ | {"HF_ENDPOINT": web.address, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "hub")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def answer(path: str) -> object:
            print(json.dumps(f"hf://datasets/lab/{path}"), file=child.stdin, flush=True)
            return json.loads(child.stdout.readline())

        for path, here in expected.items():
            assert answer(f"web{path}") == [here.train.digest, here.documents], path
        assert any("cursor=2" in asked for asked in web.asked), "a listing of several pages was read on"
        assert any("?signature=x" in asked for asked in web.asked), "redirects were followed"
        for path in ("none/data", "web/none.jsonl", "web/none/*.jsonl"):
            assert "cannot be read" in str(said := answer(path)) or "no file matches" in str(said)
        for fault in ("silent", "503", "no json", "garbage", "cut short"):
            web.fault = fault
            said = answer("web/data/0.jsonl.gz")
            assert isinstance(said, str), fault
            assert "cannot be read" in said, fault
            assert "\n" not in said
        child.stdin.close()
