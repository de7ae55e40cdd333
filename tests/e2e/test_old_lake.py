"""A lake written before version logs held O(1) of history (``tests/golden/lake-v0``) keeps working in every way."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from datalake import (
    DatasetReader,
    Lake,
    Manifest,
    Source,
    content_digest,
    heal_dataset,
    lineage,
    shard_layout,
    verify_dataset,
    write_shard,
)
from datalake.clock import System
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.registry.access import AccessControl, AccessError, TokenLog
from datalake.store.open import open_store
from generator import GENERATOR_VERSION, generate_batch, parse_spec
from orchestration.generation.recompute import lake_generator
from orchestration.runs.view import view_runs
from trainer import TrainJob, load_metrics, parse_config, run_training

OLD = Path(__file__).resolve().parents[1] / "golden" / "lake-v0"
GRACE_TOKEN = "mg_e2df1272b8c4_05431e4fcfd7417f22756b0da5b50b2f8419285804103a300f0fa00cf9450ea6"
REVOKED_TOKEN = "mg_706aa5a52e7a_4167016237509fc3f552c72155c34675eee1396b1f053716fb89598df76e581d"
DATASETS = {"grids@1": 20, "grids@2": 40, "prose@1": 25, "prose-heldout@1": 6}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A copy that a test may write to."""
    return Lake.open(str(shutil.copytree(OLD, tmp_path / "lake")))


def rows_of(lake: Lake, manifest: Manifest) -> np.ndarray:
    """All tokens, [sequences, seq_len]."""
    return DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences))


def add_rows(lake: Lake, name: str, params: str, seed: int, rows: int, shard: int = 8) -> str:
    """What `generate` does, in this process: missing shards, then the commit; returns NAME@VERSION."""
    spec = parse_spec(lake.params.get(params).spec)
    source = Source(
        kind="synthetic",
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        seed=seed,
        generator=GENERATOR_VERSION,
        shard_sequences=shard,
    )
    refs = [
        write_shard(lake.store, source, generate_batch(spec, seed, first, count), first)
        for first, count in shard_layout(rows, shard)
    ]
    manifest = Manifest.build(
        source,
        refs,
        seq_len=spec.seq_len,
        vocab_size=spec.vocab_size,
        content_digest=content_digest(lake.store, refs),
    )
    return lake.datasets.commit(name, manifest, params).ref


def test_everything_is_found_and_verifies(lake: Lake) -> None:
    assert [each.ref for each in lake.params.list()] == ["other@1", "rules@4"]
    history = lake.params.history("rules")
    assert [each.version for each in history] == [1, 2, 3, 4]
    assert [each.spec["hidden"] for each in history] == [4, 8, 4, 4]
    assert lake.params.aliases("rules") == {"best": 4, "stable": 3}
    assert lake.params.get("rules@stable") == history[2]
    moves = [(change.what, change.version) for change in changes_of(lake)]
    assert moves == [
        *[("version", 1), ("version", 2), ("alias", 1), ("version", 3), ("alias", 2), ("version", 4)],
        *[("alias", 4), ("alias", 3)],
    ]
    assert {v.ref: v.sequences for d in lake.datasets.list() for v in lake.datasets.history(d.name)} == DATASETS
    for ref in DATASETS:
        assert verify_dataset(lake.store, lake.datasets.manifest(ref)).ok
    grids = lake.datasets.manifest("grids@2")
    computed = generate_batch(parse_spec(grids.source.spec), 5, 0, 40)
    tokens = np.frombuffer(b"".join(computed["tokens"].to_pylist()), "<u2").reshape(40, 64)
    assert (rows_of(lake, grids) == tokens).all()
    assert (rows_of(lake, lake.datasets.manifest("grids@1")) == tokens[:20]).all()
    assert lake.models.get("small@good").run == "pre"
    tree = lineage(lake, "small")
    assert (tree["datasets"][0]["ref"], tree["params"][0]["ref"]) == ("grids@2", "rules@3")
    states = {view["name"]: view["state"] for view in view_runs(lake)}
    assert sorted(states.values()) == ["finished", "finished", "finished", "stopped", "stopped"]
    assert [row["step"] for row in load_metrics(lake, "pre") if "loss" in row] == list(range(1, 13))


def changes_of(lake: Lake) -> list:
    """Every change of "rules", from its first entry on."""
    looks: Iterator[bool] = iter([False])
    return list(lake.params.watch("rules", 0, interval=0.0, stop=lambda: next(looks, True)))


def test_tokens_of_old_let_in_and_keep_out(lake: Lake) -> None:
    access = AccessControl(lake.store, lake.system, refresh_s=0.0)
    grace = access.authenticate(GRACE_TOKEN)
    assert (grace.name, grace.role) == ("grace", "writer")
    with pytest.raises(AccessError):
        access.authenticate(REVOKED_TOKEN)
    log = TokenLog(lake.store, lake.system)
    assert [(token.name, token.revoked is None) for token in log.list()] == [
        *[("grace", True), ("eve", False), ("alan", True)]
    ]
    new, text = log.create("bob", "admin")
    assert access.authenticate(text) == new
    log.revoke(grace.id)
    with pytest.raises(AccessError):
        access.authenticate(GRACE_TOKEN)
    assert [token.name for token in log.list()] == ["grace", "eve", "alan", "bob"]


def test_names_grow_from_where_they_were(lake: Lake) -> None:
    before = [*lake.params.history("rules")]
    assert lake.params.put("rules", before[-1].spec).version == 4, "the same spec makes no version"
    fifth = lake.params.put("rules", {**before[0].spec, "burn_in": 9}, expect_version=4)
    lake.params.tag("rules", "stable", 5, expect=3)
    assert [*lake.params.history("rules")] == [*before, fifth]
    assert lake.params.aliases("rules") == {"best": 4, "stable": 5}
    assert lake.params.get("rules@2") == before[1]
    assert [(c.what, c.version) for c in changes_of(lake)][-2:] == [("version", 5), ("alias", 5)]
    kept = lake.datasets.manifest("grids@2").shards
    assert add_rows(lake, "grids", "rules@3", 5, 20) == "grids@1", "committed before, so found"
    assert add_rows(lake, "grids", "rules@3", 5, 48) == "grids@3"
    assert lake.datasets.manifest("grids@3").shards[:5] == kept
    assert lake.datasets.aliases("grids") == {"good": 2}
    files = {name: lake.models.open_file("small@1", name) for name in lake.models.get("small@1").files}
    facts = lake.models.get("small@1")
    origin = {"run": facts.run, "datasets": facts.datasets, "spec_digests": facts.spec_digests, "params": facts.params}
    assert lake.models.publish("small", files, **origin).version == 1
    second = lake.models.publish("small", {**files, "note.txt": b"second"}, **origin)
    assert (second.version, lake.models.get("small@good").version) == (2, 1)


def test_a_lost_shard_is_healed_byte_for_byte(lake: Lake) -> None:
    manifest = lake.datasets.manifest("grids@2")
    lost = manifest.shards[1]
    original = lake.store.get(lost.key)
    lake.store.delete(lost.key)
    assert not verify_dataset(lake.store, manifest).ok
    report = heal_dataset(lake.store, manifest, lake_generator(lake.uri), lake.system)
    assert [repair.key for repair in report.repaired] == [lost.key]
    assert lake.store.get(lost.key) == original
    assert hashlib.sha256(original).hexdigest() == lost.sha256


def test_stopped_runs_go_on_and_finished_ones_stay(lake: Lake) -> None:
    language = lake.runs.get("language")
    assert (language.status, language.checkpoints[-1].step) == ("stopped", 10)
    result = run_training(TrainJob(parse_config(language.state["config"]), lake, "language"), threads=1)
    assert (result.status, result.step, result.model) == ("finished", 30, "talk@1")
    assert [row["step"] for row in load_metrics(lake, "language") if "loss" in row] == list(range(1, 31))
    assert lineage(lake, "talk")["parents"][0]["model"]["ref"] == "small@1"
    finished = lake.runs.get("pre").state
    again = run_training(TrainJob(parse_config(finished["config"]), lake, "pre"), threads=1)
    assert again.to_record() == finished["result"]
    assert lake.runs.get("pre").state == finished


def test_a_run_begun_while_its_data_was_made_goes_on_with_the_data_made(lake: Lake) -> None:
    live = lake.runs.get("live")
    request = live.state["settings"]["live"]
    rows = request["tokens"] // 64
    assert add_rows(lake, "stream", request["params"], request["seed"], rows) == "stream@1"
    reached = live.checkpoints[-1].step
    events: list[dict] = []
    result = run_training(TrainJob(parse_config(live.state["config"]), lake, "live"), threads=1, on_event=events.append)
    assert (result.status, result.model) == ("finished", "live-model@1")
    assert next(event["step"] for event in events if event["event"] == "step") == reached + 1


def test_a_sweep_takes_only_what_nothing_names(lake: Lake) -> None:
    later = Lake(open_store(lake.uri), System(clock=lambda: datetime.now(UTC) + timedelta(days=3650)))
    found = find_garbage(later)
    for info in found.objects:  # shards of the dataset that was being made, and sessions, which are not stored any more
        assert info.key.startswith(("data/", "access/sessions/"))
    named = {ref.key for name in DATASETS for ref in lake.datasets.manifest(name).shards}
    assert not named & {info.key for info in found.objects}
    assert found.objects
    assert len(sweep(later, found)) == len(found.objects) + len(found.leftovers)
    for name in DATASETS:
        assert verify_dataset(lake.store, lake.datasets.manifest(name)).ok
