"""Training on a damaged lake or an absent store: an undisturbed run's losses, or an end that names what is lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from datalake import DamagePolicy, Lake, Repairer, System
from datalake.errors import CorruptShardError, DamagePolicyError, MissingShardError, StoreUnavailableError
from datalake.maintenance.verify import verify_dataset
from datalake.store.retry import RetryPolicy
from datalake.store.s3 import S3Store
from tests.s3server import S3Server
from tests.trainer.lake_data import SEQ_LEN, add_dataset, patterned, tiny_config, tiny_lake
from trainer import Ranks, TrainJob, load_metrics, run_training

ROWS = 60
CONFIG = tiny_config(steps=16)


@dataclass(frozen=True)
class Patterned:
    """A generator of the rows that the lake holds."""

    version: ClassVar[str] = "tests"

    def table(self, _spec: Any, _seed: int, first: int, rows: int) -> pa.Table:
        tokens = np.ascontiguousarray(patterned(ROWS)[first : first + rows])
        column = pa.Array.from_buffers(pa.binary(2 * SEQ_LEN), rows, [None, pa.py_buffer(tokens.tobytes())])
        return pa.table({"sequence_id": pa.array(np.arange(first, first + rows)), "tokens": column})

    def tokens(self, _spec: Any, _seed: int, ids_N: np.ndarray) -> np.ndarray:
        return patterned(ROWS)[ids_N]


def fill(lake: Lake, kind: str = "synthetic") -> Lake:
    """``train@1`` in 20 shards of 3 rows, which 16 steps of 4 rows all touch, and ``held@1``."""
    add_dataset(lake, "train", patterned(ROWS), shard=3, kind=kind)
    add_dataset(lake, "held", patterned(10, seed=1))
    return lake


def losses(lake: Lake, repairer: Repairer | None = None, on_event: Any = None) -> list[float]:
    job = TrainJob(CONFIG, lake, "r", repairer=repairer or Repairer())
    run_training(job, Ranks.here(device="cpu"), threads=1, on_event=on_event)
    return [record["loss"] for record in load_metrics(lake, "r") if "loss" in record]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(fill(Lake.open(str(tmp_path_factory.mktemp("whole") / "lake"))))


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Lake, list[str]]:
    """A lake with a tenth of its shards lost or corrupt, and their keys."""
    lake = fill(Lake.open(str(tmp_path / "lake")))
    shards = lake.datasets.manifest("train@1").shards
    lake.store.delete(shards[4].key)
    lake.store.replace(shards[17].key, lake.store.get(shards[17].key)[:-9])
    return lake, [shards[4].key, shards[17].key]


def test_damage_is_healed_and_the_losses_are_those_of_an_undamaged_run(
    damaged: tuple[Lake, list[str]], expected: list[float]
) -> None:
    lake, keys = damaged
    events: list[dict[str, Any]] = []
    assert losses(lake, Repairer(generator=Patterned(), log_event=events.append)) == expected
    recorded = lake.runs.get("r").listed("repairs")
    assert sorted(repair["key"] for repair in recorded) == sorted(keys)
    assert [{"event": "repair", **repair} for repair in recorded] == events
    assert verify_dataset(lake.store, lake.datasets.manifest("train@1")).ok


def test_the_budget_is_the_runs_and_not_the_attempts(damaged: tuple[Lake, list[str]], expected: list[float]) -> None:
    lake, _ = damaged
    for _attempt in range(2):
        with pytest.raises(CorruptShardError, match=r"budget for healing while reading \(1 shards") as raised:
            losses(lake, Repairer(DamagePolicy(heal_shards=1), Patterned()))
        assert len(lake.runs.get("r").listed("repairs")) == 1
    assert "\n" not in str(raised.value)
    assert losses(lake, Repairer(DamagePolicy(heal_shards=2), Patterned())) == expected


def test_damage_is_waited_for_until_another_has_mended_it(
    damaged: tuple[Lake, list[str]], expected: list[float], tmp_path: Path
) -> None:
    lake, keys = damaged
    whole = fill(Lake.open(str(tmp_path / "copy"))).store
    events: list[dict[str, Any]] = []

    def repair(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "waiting":
            (key,) = (key for key in keys if key in event["reason"])
            lake.store.replace(key, whole.get(key))

    assert losses(lake, Repairer(DamagePolicy("wait"), log_event=repair)) == expected
    assert [event["event"] for event in events].count("waited") == 2
    assert [fault["kind"] for fault in lake.runs.get("r").state["faults"]] == ["waited"] * 2


@pytest.mark.parametrize(
    ("kind", "policy"), [("text", DamagePolicy()), ("synthetic", DamagePolicy("fail")), ("text", DamagePolicy("heal"))]
)
def test_what_cannot_or_may_not_be_healed_ends_the_run_by_its_name(
    tmp_path: Path, kind: str, policy: DamagePolicy
) -> None:
    lake = fill(Lake.open(str(tmp_path)), kind)
    lost = lake.datasets.manifest("train@1").shards[4]
    lake.store.delete(lost.key)
    with pytest.raises(MissingShardError, match=rf"{lost.key} is missing .*\(sequences 12 to 14\)"):
        losses(lake, Repairer(policy, Patterned()))
    assert lake.runs.get("r").listed("repairs").count == 0


def test_training_waits_for_a_store_that_is_killed_and_comes_back(own_server: S3Server, expected: list[float]) -> None:
    """Down once while the data is read and once while a checkpoint is written."""
    # So few tries of its own that only waiting gets it past a server's start.
    lake = fill(Lake(S3Store("s3://lake/l", retry=RetryPolicy(attempts=2, base=0.01)), System()))
    restarts: list[threading.Thread] = []

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "start" or (event["event"], event.get("step")) == ("step", 9):
            own_server.kill()
            restarts.append(threading.Thread(target=lambda: (time.sleep(0.5), own_server.start())))
            restarts[-1].start()

    try:
        with pytest.raises(StoreUnavailableError):
            losses(lake, Repairer(DamagePolicy("fail"), Patterned()), kill)
        restarts[-1].join()
        assert losses(lake, Repairer(generator=Patterned()), kill) == expected
        waits = lake.runs.get("r").state["faults"]
    finally:
        for restart in restarts:
            restart.join()
    assert len(restarts) == 3
    assert sum(wait["seconds"] for wait in waits) > 0
    assert all("the store did not answer" in wait["reason"] for wait in waits)


def test_a_policy_says_what_is_wrong_with_it() -> None:
    with pytest.raises(DamagePolicyError, match=r"on_damage = 'skip': expected heal, wait or fail"):
        DamagePolicy("skip")  # type: ignore[arg-type]
    with pytest.raises(DamagePolicyError, match="wait_seconds = -1"):
        DamagePolicy(wait_seconds=-1)


def test_a_repairer_can_be_pickled(tmp_path: Path) -> None:
    import pickle

    lake = tiny_lake(tmp_path)
    repairer = Repairer(DamagePolicy("wait"), Patterned())
    repairer.record_in(lake.runs.start("t", "train", {}, {}))
    copy = pickle.loads(pickle.dumps(repairer))  # noqa: S301
    assert copy == repairer
    assert hash(copy) == hash(repairer)
    repairer.record_in(lake.runs.start("t", "train", {}, {}))
    assert copy != repairer, "another attempt has another lease"
