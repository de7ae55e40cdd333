"""A computed dataset does all that a stored one does, with the same rows: train, resume, evaluate, show, export."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import morphogen
from datalake import ComputedReader, DatasetReader, Lake, Manifest, PlanSource, content_digest, shard_layout
from datalake.errors import GeneratorVersionError, ManifestError
from datalake.maintenance.export_targets import open_target
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.plan.plan import Plan
from datalake.shards.shards import write_shard
from generator import SpecGenerator, generate_batch, parse_spec
from orchestration.cli import main
from orchestration.errors import InvalidRequestError
from orchestration.generation.request import GenerateRequest, commit_computed, request_of
from tests.ray_fixtures import TINY_SPEC
from tests.trainer.lake_data import curve, tiny_config
from trainer import TrainDataset, TrainJob, load_metrics, local_batches, run_training
from trainer.inputs import open_inputs

ROWS, SHARD, SEQ_LEN = 40, 16, TINY_SPEC["seq_len"]


def put(lake: Lake, name: str = "code", **changes: Any) -> Any:
    return lake.params.put(name, parse_spec(TINY_SPEC | changes).model_dump(mode="json"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """``code@1``, computed, and ``code@2``, the same rows stored."""
    lake = Lake.open(str(tmp_path_factory.mktemp("computed") / "lake"))
    request = GenerateRequest(put(lake), ROWS * SEQ_LEN, seed=5, shard_sequences=SHARD)
    version, manifest = commit_computed(lake, request)
    assert (version.ref, version.computed) == ("code@1", True)
    spec = parse_spec(TINY_SPEC)
    refs = [
        write_shard(lake.store, manifest.source, generate_batch(spec, 5, first, rows, threads=1), first)
        for first, rows in shard_layout(ROWS, SHARD)
    ]
    lake.datasets.commit("code", manifest.stored(refs, content_digest(lake.store, refs)), params=version.params)
    return lake


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def opened(lake: Lake, ref: str) -> TrainDataset:
    return TrainDataset(ref, lake.datasets.manifest(ref), lake.store)


class Killed(BaseException):
    """Leaves the loop as nothing it catches could."""


def test_losses_are_those_of_stored_rows_to_the_bit_and_across_a_resume(both: Lake) -> None:
    def train(run: str, ref: str, kill_at: int | None = None) -> Any:
        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["step"] == kill_at:
                raise Killed

        config = tiny_config(data=[{"dataset": ref}], eval=[ref])
        if kill_at is not None:
            with pytest.raises(Killed):
                run_training(TrainJob(config, both, run), on_event=on_event, threads=1)
        run_training(TrainJob(config, both, run), threads=1)
        return curve(load_metrics(both, run))

    stored = train("stored", "code@2")
    assert len(stored) == 14
    assert train("computed", "code@1") == stored
    assert train("resumed", "code@1", kill_at=8) == stored
    ends = [both.runs.get(run).state["result"]["evals"] for run in ("stored", "computed", "resumed")]
    assert ends[0]["code@2"] == ends[1]["code@1"] == ends[2]["code@1"]


@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_gets_the_rows_of_the_plan(both: Lake, world: int) -> None:
    plans = [Plan([PlanSource(ROWS, 1.0, both.datasets.manifest(ref).identity)], 3, 8) for ref in ("code@1", "code@2")]
    assert plans[0].digest == plans[1].digest
    for rank in range(world):
        streams = [
            list(local_batches(plans[0], 0, 12, world, rank, [opened(both, ref)])) for ref in ("code@1", "code@2")
        ]
        for computed, stored in zip(*streams, strict=True):
            assert np.array_equal(computed.rows, stored.rows)
            assert computed.tokens.dtype == stored.tokens.dtype
            assert np.array_equal(computed.tokens, stored.tokens)


def test_a_mixture_of_stored_and_computed_rows_is_one_plan(both: Lake) -> None:
    mixed = [opened(both, "code@2"), opened(both, "code@1")]
    plan = Plan(
        [PlanSource(ROWS, weight, d.manifest.identity) for weight, d in zip((1.0, 3.0), mixed, strict=True)], 3, 8
    )
    stored = [opened(both, "code@2")] * 2
    for ours, theirs in zip(
        local_batches(plan, 2, 6, 1, 0, mixed), local_batches(plan, 2, 6, 1, 0, stored), strict=True
    ):
        assert np.array_equal(ours.tokens, theirs.tokens)


def test_any_row_in_any_order_and_process(both: Lake) -> None:
    stored = DatasetReader(both.store, both.datasets.manifest("code@2")).rows(np.arange(ROWS))
    reader = ComputedReader(both.datasets.manifest("code@1"), SpecGenerator())
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    order = np.array([39, 0, 7, 7, 21])
    copy.prefetch(np.array([7, 20, 21, 39]))
    for each in (reader, copy):
        assert np.array_equal(each.rows(order), stored[order])
        assert each.rows(np.array([], dtype=np.int64)).shape == (0, SEQ_LEN)
    out = np.empty((5, SEQ_LEN), dtype=np.int64)
    assert np.array_equal(copy.rows(order, out), stored[order])
    for index in (-1, ROWS):
        with pytest.raises(IndexError):
            reader.rows(np.array([0, index]))
    with pytest.raises(ManifestError, match="has tokens only"):
        reader.column("score", order)
    with pytest.raises(ManifestError, match="has no generator"):
        ComputedReader(both.datasets.manifest("code@1"), None)
    data = morphogen.LakeDataset(both.uri, "code@1")
    assert np.array_equal(torch.stack(data.__getitems__(order.tolist())).numpy(), stored[order])
    assert data.identity == morphogen.LakeDataset(both.uri, "code@2").identity


@pytest.mark.parametrize("format", ["parquet", "huggingface", "jsonl", "bin", "llmc", "megatron", "litdata"])
def test_exports_are_those_of_the_stored_version_byte_for_byte(both: Lake, tmp_path: Path, format: str) -> None:
    for ref in ("code@1", "code@2"):
        assert call("data", "export", ref, tmp_path / ref, "--format", format, "--lake", both.uri) == 0
    files = {
        ref: {
            path.name: path.read_bytes() for path in (tmp_path / ref).iterdir() if path.suffix not in (".md", ".json")
        }
        for ref in ("code@1", "code@2")
    }
    assert files["code@1"] == files["code@2"] != {}
    if format == "parquet":
        assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "code@1").glob("*.parquet")) == ROWS


def test_an_export_to_a_bucket_is_that_to_a_folder(
    both: Lake, tmp_path: Path, s3_lake_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--format", "bin", "--file-tokens", SHARD * SEQ_LEN, "--lake", both.uri)
    assert call("data", "export", "code@1", tmp_path / "out", *arguments) == 0
    assert call("data", "export", "code@1", s3_lake_uri, "--no-ray", "--threads", 2, *arguments) == 0
    target = open_target(s3_lake_uri)
    written = {name: target.read(name) for name in target.found()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tokens = [f"tokens-{number:05d}-of-00003.bin" for number in range(3)]
    assert sorted(written) == sorted([*tokens, "README.md", "lineage.json", "manifest.json"])
    lineage = json.loads(written["lineage.json"])
    assert (lineage["dataset"]["ref"], lineage["export"]) == ("code@1", {"format": "bin", "files": tokens})
    assert lineage["dataset"]["params"]["ref"] == "code@1"
    capsys.readouterr()
    for place, more, says in (
        (s3_lake_uri, (), f"{s3_lake_uri} is not empty"),
        (tmp_path / "other", ("--ray", "--threads", 2), "threads = 2: on Ray"),
        ("s3:/one-slash", (), "mistyped"),
    ):
        assert call("data", "export", "code@1", place, *more, "--lake", both.uri) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_commands_know_what_is_computed(both: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: object) -> Any:
        assert call(*arguments, "--json", "--lake", both.uri) == 0
        return json.loads(capsys.readouterr().out)

    facts = shown("data", "show", "code@1")
    assert (facts["computed"], facts["shards"], facts["content_digest"]) == (True, [], None)
    assert shown("data", "show", "code@2")["same_rows_as"] == 1
    assert facts["identity"] == shown("data", "show", "code@2")["identity"]
    assert shown("data", "head", "code@1", "-n", "20") == shown("data", "head", "code@2", "-n", "20")
    assert shown("data", "verify", "code@1")["checked"] == 0
    assert shown("data", "heal", "code@1")["lost"] == []
    for command in (("data", "show"), ("data", "verify"), ("data", "head")):
        assert call(*command, "code@1", "--lake", both.uri) == 0
    assert "materialize" in capsys.readouterr().out
    assert call("data", "list", "--lake", both.uri) == 0


def test_ten_trillion_tokens_are_committed_and_read_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    put(lake, "tiny", seq_len=64)
    arguments = ("tiny@1", "--tokens", 10**13, "--computed", "--json", "--lake", lake.uri)
    assert call("generate", *arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["dataset"], printed["sequences"]) == ("tiny@1", 10**13 // 64)
    assert not list(lake.store.list("data/"))
    assert call("generate", *arguments) == 0
    assert json.loads(capsys.readouterr().out) == printed  # the same again, and no version more
    rows = np.array([0, 10**11, 10**13 // 64 - 1])
    reader = opened(lake, "tiny@1").reader()
    assert np.array_equal(reader.rows(rows)[1], generated_row(lake, "tiny@1", 10**11))
    plan = Plan([PlanSource(len(reader), 1.0, reader.manifest.identity)], 1, 4)
    assert next(local_batches(plan, 10**9, 10**9 + 1, 1, 0, [opened(lake, "tiny@1")])).tokens.shape == (4, 64)
    assert call("data", "show", "tiny@1", "--lake", lake.uri) == 0


def generated_row(lake: Lake, ref: str, row: int) -> np.ndarray:
    manifest = lake.datasets.manifest(ref)
    table = generate_batch(parse_spec(manifest.source.spec), manifest.source.seed or 0, row, 1, threads=1)
    return np.frombuffer(table["tokens"][0].as_py(), dtype=manifest.token_dtype)


def test_collection_and_retirement_know_it(both: Lake, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    version, manifest = commit_computed(lake, GenerateRequest(put(lake), ROWS * SEQ_LEN))
    sweep(lake, find_garbage(lake))
    assert lake.datasets.manifest(version) == manifest
    lake.datasets.retire("code", 1)
    with pytest.raises(morphogen.DatalakeError, match="retired"):
        open_inputs(tiny_config(data=[{"dataset": "code@1"}], eval=[]), lake)
    assert both.datasets.get("code@2").same_rows_as == 1


def test_another_generators_rows_are_refused_with_both_versions(both: Lake, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    known = both.datasets.manifest("code@1")
    source = known.source.model_copy(update={"generator": "7"})
    sizes = {"sequences": ROWS, "seq_len": SEQ_LEN, "vocab_size": known.vocab_size}
    lake.datasets.commit("new", Manifest.computed(source, **sizes), params=put(lake).ref)
    said = "generator version 7, this is 1"
    config = tiny_config(data=[{"dataset": "new@1"}], eval=[])
    for attempt in (
        lambda: open_inputs(config, lake),
        lambda: morphogen.LakeDataset(lake.uri, "new@1"),
        lambda: opened(lake, "new@1").reader(),
        lambda: request_of(lake, "new@1"),
    ):
        with pytest.raises(GeneratorVersionError, match=said):
            attempt()
    for command in (("head", "new@1"), ("export", "new@1", tmp_path / "out"), ("materialize", "new@1")):
        assert call("data", *command, "--lake", lake.uri) == 2
    assert not (tmp_path / "out").exists()


def test_the_command_materializes_the_same_rows(both: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    commit_computed(lake, GenerateRequest(put(lake), ROWS * SEQ_LEN, seed=5, shard_sequences=SHARD))
    assert call("data", "materialize", "code@1", "--no-ray", "--json", "--lake", lake.uri) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == "code@2"
    made = lake.datasets.get("code@2")
    assert (made.same_rows_as, made.computed, made.message) == (1, False, "materialized from code@1")
    assert lake.datasets.manifest(made).digest == both.datasets.manifest("code@2").digest


def test_what_makes_no_sense_is_refused(both: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidRequestError, match="code@2: is stored, in 3 shards"):
        request_of(both, "code@2")
    assert call("generate", "code@1", "--tokens", 1000, "--computed", "--actors", 2, "--lake", both.uri) == 2
    assert "--actors: nothing is made for a computed dataset" in capsys.readouterr().err
    assert call("generate", "code@1", "--tokens", 0, "--computed", "--lake", both.uri) == 2
    made = request_of(both, "code@1")
    assert (made.tokens, made.seed, made.shard_sequences) == (ROWS * SEQ_LEN, 5, SHARD)
    assert made.message == "materialized from code@1"
