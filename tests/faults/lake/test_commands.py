"""The commands around healing, housekeeping and the registry, on a damaged lake, as a person would use them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake.lake import Lake
from datalake.maintenance.garbage import live_keys
from datalake.shards.computed import compute_table
from datalake.shards.manifest import Manifest, content_digest
from datalake.shards.shards import write_shard
from datalake.shards.source import shard_layout
from datalake.store.conformance import ProbeReport, record_conformance
from generator import SpecGenerator, parse_spec
from generator.presets import load_preset
from orchestration.cli import main
from orchestration.corpus.tokenizers import load_tokenizer, train_bpe
from orchestration.generation.worker import synthetic_source


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("MORPHOGEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def dataset(lake: Lake) -> Manifest:
    spec = parse_spec({"family": "nca", "grid": [4, 4], "seq_len": 64})
    source = synthetic_source(spec, seed=5, shard_sequences=8)
    shards = [
        write_shard(lake.store, source, compute_table(source, SpecGenerator(), first, rows), first)
        for first, rows in shard_layout(60, 8)
    ]
    manifest = Manifest.build(
        source, shards, seq_len=64, vocab_size=spec.vocab_size, content_digest=content_digest(lake.store, shards)
    )
    lake.datasets.commit("d", manifest)
    return manifest


def run(*arguments: str, code: int = 0) -> None:
    """Run one command and check its exit code."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert (end.value.code or 0) == code


def test_verify_heal_verify(lake: Lake, dataset: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    lake.store.delete(dataset.shards[2].key)
    lake.store.replace(dataset.shards[5].key, b"damaged")
    run("data", "verify", "d", code=2)
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines() if line.startswith("error")] == [
        f"shard {dataset.shards[2].key}",
        f"shard {dataset.shards[5].key}",
    ]
    run("data", "heal", "d", "--rate", "50", "--json")
    healed = json.loads(capsys.readouterr().out)
    assert [repair["key"] for repair in healed["repaired"]] == [dataset.shards[2].key, dataset.shards[5].key]
    run("data", "verify", "d", "--resume")
    assert "8 shards checked, 0 lost or corrupt" in capsys.readouterr().out


def test_gc_is_dry_unless_told(lake: Lake, dataset: Manifest, capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    import os

    stray = tmp_path / "lake" / "data" / "0" / "000000000000.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"stray")
    old = (datetime.now(UTC) - timedelta(days=9)).timestamp()
    os.utime(stray, (old, old))
    run("data", "gc", "--json")
    found = json.loads(capsys.readouterr().out)
    assert ([item[0] for item in found["objects"]], found["deleted"]) == (["data/0/000000000000.parquet"], False)
    assert stray.exists()
    run("data", "gc", "--delete")
    assert not stray.exists()
    assert all(lake.store.exists(ref.key) for ref in dataset.shards)


def test_export_and_import(lake: Lake, dataset: Manifest, tmp_path: Path) -> None:
    run("data", "export", "d@1", str(tmp_path / "out"), "--format", "bin")
    tokens = np.fromfile(tmp_path / "out" / "tokens.bin", dtype="<u2").reshape(60, 64)
    pq.write_table(pa.table({"ids": tokens.tolist()}), tmp_path / "ids.parquet")
    run("data", "import", "e", str(tmp_path / "ids.parquet"), "--column", "ids", "--vocab-size", "20000")
    imported = lake.datasets.manifest("e@1")
    assert (imported.kind, imported.content_digest) == ("text", dataset.content_digest)
    run("data", "import", "e", str(tmp_path / "nothing.parquet"), code=2)


def test_params_diff_tag_and_watch(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.params.put("code", {"family": "nca", "patch": 2}, message="begin")
    lake.params.put("code", {"family": "nca", "patch": 3})
    run("params", "diff", "code@1", "code@2", "--json")
    assert json.loads(capsys.readouterr().out)[0] == {
        "path": "patch", "old": 2, "new": 3, "added": False, "removed": False,
    }  # fmt: skip
    run("params", "tag", "code@1", "stable", "--expect", "0")
    run("params", "tag", "code@2", "stable", "--expect", "2", code=2)
    assert "expected it at version 2, found it at 1" in capsys.readouterr().err
    run("params", "watch", "code", "--after", "0", "--count", "3")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:3] for line in lines] == [
        ["version", "code@1"],
        ["version", "code@2"],
        ["alias", "code@stable -> 1"],
    ]
    assert lines[0].endswith("begin")


def test_imported_tokens_keep_their_tokenizer(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = train_bpe([b"so much depends upon a red wheel barrow " * 40], 300)
    (tmp_path / "tokenizer.json").write_bytes(text.json_bytes)
    ids = [[*tokens.tolist(), text.end_of_text] for tokens in text.encode([b"a red wheel", b"barrow depends"] * 30)]
    pq.write_table(pa.table({"tokens": ids}), tmp_path / "ids.parquet")
    given = ["e", str(tmp_path / "ids.parquet"), "--seq-len", "16", "--tokenizer", str(tmp_path / "tokenizer.json")]
    run("data", "import", *given)
    manifest = lake.datasets.manifest("e@1")
    assert (manifest.vocab_size, load_tokenizer(lake.store, manifest.source.spec).vocab_size) == (text.vocab_size,) * 2
    assert manifest.text_bytes
    capsys.readouterr()
    run("data", "head", "e", "-n", "1")
    assert "a red wheel" in capsys.readouterr().out
    run("data", "import", *given, "--vocab-size", "9000", code=2)
    assert "leave vocab_size out" in capsys.readouterr().err
    assert f"tokenizers/{manifest.source.spec['tokenizer_digest']}.json" in live_keys(lake, lake.system.clock())


@pytest.mark.parametrize(
    "command",
    [
        "generate code@1 --tokens 1000000000",
        "corpus add c {files}",
        "data import d {files}/x.parquet",
        "data heal d",
        "train {files}/config.toml --no-ray",
        "train {files}/config.toml",
        "demo",
    ],
)
def test_jobs_refuse_a_store_that_failed_the_probe_before_they_do_anything(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """What they would read is not even there: nothing was looked at, and nothing was started."""
    (tmp_path / "config.toml").write_text(
        'steps = 1\nbatch_sequences = 1\ndata = [{dataset = "d@1"}]\nmodel = {depth = 1, dim = 16}\n'
    )
    lake.params.put("code", load_preset("paper").model_dump(mode="json"))
    record_conformance(lake.store, ProbeReport(lake.uri, 32, 50, ("two won",), 1.0), lake.system)
    before = list(lake.store.list())
    run(*command.format(files=tmp_path).split(), code=2)
    assert "must not be written: `morphogen probe` found" in capsys.readouterr().err
    assert list(lake.store.list()) == before


def test_a_failed_probe_is_remembered_until_a_good_one(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.params.put("code", {"family": "nca"})
    record_conformance(lake.store, ProbeReport(lake.uri, 32, 50, ("two won",), 1.0), lake.system)
    run("params", "tag", "code@1", "stable", code=2)
    assert "must not be written" in capsys.readouterr().err
    run("params", "show", "code")
    run("probe", "--writers", "4", "--keys", "3")
    run("params", "tag", "code@1", "stable")
