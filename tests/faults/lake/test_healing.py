"""A tenth of a synthetic dataset deleted and corrupted: healing brings back every byte, also while it is being read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datalake.clock import System
from datalake.errors import CorruptShardError, CredentialsError, MissingShardError, UnhealableError
from datalake.lake import Lake
from datalake.maintenance.damage_policy import DamagePolicy
from datalake.maintenance.healing import Healer, heal_dataset
from datalake.maintenance.ledger import Ledger
from datalake.maintenance.verify import RateLimit, VerifyOptions, verify_dataset
from datalake.plan.plan import Plan, PlanSource
from datalake.reading.reader import DatasetReader
from datalake.shards.computed import compute_table
from datalake.shards.manifest import Manifest, content_digest
from datalake.shards.shards import write_shard
from datalake.shards.source import Source, shard_layout
from datalake.store.local import LocalStore
from generator import SpecGenerator, parse_spec
from orchestration.generation.recompute import make_repairer
from orchestration.generation.worker import synthetic_source
from tests.datalake.helpers import make_manifest, make_source, make_table, make_tokens

SEQUENCES, SHARD = 300, 8


class Drawn:
    """A generator of ``make_table``'s rows, whatever the seed of the source."""

    version = "1"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def table(self, _spec: Any, _seed: int, first: int, rows: int) -> pa.Table:
        return make_table(self.seed, first, rows)

    def tokens(self, _spec: Any, _seed: int, ids_N: np.ndarray) -> np.ndarray:
        return np.concatenate([make_tokens(self.seed, int(row), 1) for row in ids_N])


@pytest.fixture
def generated(lake_uri: str) -> tuple[Lake, Manifest]:
    """A dataset of the real generator, its last shard short."""
    lake = Lake.open(lake_uri)
    spec = parse_spec({"family": "nca", "grid": [4, 4], "seq_len": 64})
    source = synthetic_source(spec, seed=5, shard_sequences=SHARD)
    shards = [
        write_shard(lake.store, source, compute_table(source, SpecGenerator(), first, rows), first)
        for first, rows in shard_layout(SEQUENCES, SHARD)
    ]
    digest = content_digest(lake.store, shards)
    manifest = Manifest.build(source, shards, seq_len=64, vocab_size=spec.vocab_size, content_digest=digest)
    lake.datasets.commit("d", manifest)
    return lake, manifest


def damage(lake: Lake, manifest: Manifest, seed: int) -> list[str]:
    """Delete or corrupt a tenth of the shards, the short one among them; returns their keys in order."""
    rng = random.Random(seed)
    chosen = {manifest.shards[-1], *rng.sample(manifest.shards[:-1], len(manifest.shards) // 10)}
    hurt = [ref for ref in manifest.shards if ref in chosen]
    for number, ref in enumerate(hurt):
        data = bytearray(lake.store.get(ref.key))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if number % 3 == 0:
            lake.store.delete(ref.key)
        else:
            lake.store.replace(ref.key, bytes(data) if number % 3 == 1 else bytes(data[: len(data) // 2]))
    return [ref.key for ref in hurt]


def test_heal_restores_every_byte(generated: tuple[Lake, Manifest]) -> None:
    lake, manifest = generated
    before = {key: lake.store.get(key) for key in lake.store.list("data/")}
    hurt = damage(lake, manifest, seed=1)
    told: list[str] = []
    report = heal_dataset(
        lake.store, manifest, SpecGenerator(), lake.system, on_repair=lambda repair: told.append(repair.key)
    )
    assert report.ok
    assert [repair.key for repair in report.repaired] == told == hurt
    assert [repair.problem.split(":")[0] for repair in report.repaired][:3] == ["missing", "corrupt", "corrupt"]
    assert {key: lake.store.get(key) for key in lake.store.list("data/")} == before
    kept = [repair.quarantine for repair in report.repaired if repair.quarantine]
    assert sorted(kept) == list(lake.store.list("quarantine/"))
    assert all(lake.store.get(key) != before[key.split("/", 2)[2]] for key in kept)
    assert verify_dataset(lake.store, manifest).ok
    assert heal_dataset(lake.store, manifest, SpecGenerator(), lake.system).repaired == ()


def test_a_reader_heals_on_the_fly_and_the_run_says_so(generated: tuple[Lake, Manifest]) -> None:
    lake, manifest = generated
    plan = Plan([PlanSource(SEQUENCES)], seed=3, batch=16)
    undamaged = DatasetReader(lake.store, manifest)
    expected = [undamaged.rows(plan.rows(step)[:, 1]) for step in range(20)]
    hurt = damage(lake, manifest, seed=2)
    run = lake.runs.start("t", "train", {}, {})
    repairer = make_repairer(lake.uri)
    repairer.record_in(run)
    reader = repairer.reader(lake.store, manifest)
    for step, rows in enumerate(expected):
        assert np.array_equal(reader.rows(plan.rows(step)[:, 1]), rows)
    repairs = lake.runs.get("t").listed("repairs")
    assert sorted(repair["key"] for repair in repairs) == sorted(hurt)
    assert all(repair["written"] for repair in repairs)
    assert verify_dataset(lake.store, manifest).ok


def test_past_its_budget_a_reader_raises_what_it_met(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    for ref in manifest.shards:
        lake.store.delete(ref.key)
    seconds = iter([0.0, 1.0, 1.0, 5.0, 9.0])
    system = System(monotonic=lambda: next(seconds))
    healer = Healer(Drawn(7), system, max_shards=9, max_seconds=4.5)
    reader = DatasetReader(lake.store, manifest, repair=healer.heal)
    reader.rows(np.array([0]))
    reader.rows(np.array([40]))
    with pytest.raises(MissingShardError, match=r"budget for healing while reading \(9 shards, 4.5 s\) is spent"):
        reader.rows(np.array([70]))
    few = DatasetReader(lake.store, manifest, repair=Healer(SpecGenerator(), system, max_shards=0).heal)
    with pytest.raises(MissingShardError, match="budget"):
        few.rows(np.array([99]))


class ReadOnlyStore(LocalStore):
    """A lake that this job may not write."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        raise CredentialsError(f"not allowed to write {key} ({len(data)} bytes)")


def test_a_reader_that_may_not_write_goes_on_all_the_same(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    expected = DatasetReader(lake.store, manifest).rows(np.arange(100))
    lake.store.delete(manifest.shards[1].key)
    repairs = []
    healer = Healer(Drawn(7), System(), on_repair=repairs.append)
    reader = DatasetReader(ReadOnlyStore(tmp_path), manifest, repair=healer.heal)
    assert np.array_equal(reader.rows(np.arange(100)), expected)
    assert [(repair.key, repair.written) for repair in repairs] == [(manifest.shards[1].key, False)]
    assert not lake.store.exists(manifest.shards[1].key)


def test_text_and_strangers_are_named_not_healed(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    spec = {"family": "text"}
    source = Source(kind="text", spec=spec, spec_digest=make_source(spec=spec).spec_digest, shard_sequences=32)
    shards = [
        write_shard(lake.store, source, make_table(7, first, rows), first) for first, rows in shard_layout(70, 32)
    ]
    text = Manifest.build(
        source, shards, seq_len=16, vocab_size=1000, content_digest=content_digest(lake.store, shards)
    )
    lake.store.delete(shards[1].key)
    report = heal_dataset(lake.store, text, SpecGenerator(), lake.system)
    (lost,) = report.lost
    assert not report.ok
    assert lost.key == shards[1].key
    assert "sequences 32 to 63 of this text dataset cannot be computed" in lost.problem
    with pytest.raises(MissingShardError, match="cannot be computed"):
        make_repairer(lake.uri, DamagePolicy("heal")).reader(lake.store, text).rows(np.array([40]))

    manifest = make_manifest(lake)  # its rows do not come from the generator
    lake.store.replace(manifest.shards[0].key, b"damaged")
    wrong = heal_dataset(lake.store, manifest, Drawn(8), lake.system)
    assert ["the manifest names" in lost.problem for lost in wrong.lost] == [True]
    assert lake.store.get(manifest.shards[0].key) == b"damaged"
    old = source.model_copy(update={"kind": "synthetic", "generator": "0", "seed": 1})
    with pytest.raises(UnhealableError, match="were made by generator version 0, this is 1"):
        compute_table(old, SpecGenerator(), 0, 32)


def test_verification_resumes_and_keeps_to_its_rate(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    manifest = make_manifest(lake)

    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_dataset(lake.store, manifest, interrupt, options=VerifyOptions(1, Ledger(tmp_path / "ledger")))
    lake.store.replace(manifest.shards[0].key, b"damaged since")
    lake.store.replace(manifest.shards[3].key, b"damaged")
    ledger = Ledger(tmp_path / "ledger")
    resumed = verify_dataset(lake.store, manifest, options=VerifyOptions(ledger=ledger))
    assert (resumed.skipped, resumed.checked, resumed.content_checked) == (2, 2, False)
    assert [problem.key for problem in resumed.problems] == [manifest.shards[3].key]
    ledger.clear()
    assert len(verify_dataset(lake.store, manifest, options=VerifyOptions(ledger=ledger)).problems) == 2

    waits: list[float] = []
    limit = RateLimit(100.0, System(monotonic=lambda: 50.0, sleep=waits.append))
    for size in (300, 100, 50):
        limit.spend(size)
    assert waits == [3.0, 4.0]
    with pytest.raises(CorruptShardError):
        DatasetReader(lake.store, manifest).rows(np.array([99]))
