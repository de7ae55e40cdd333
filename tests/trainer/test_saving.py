"""Checkpoints beside the step loop: steps do not wait, what is named is whole, and nothing goes wrong in silence."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from datalake.clock import System
from datalake.errors import CorruptObjectError, RunFencedError, StoreUnavailableError
from datalake.store.local import LocalStore
from tests.trainer.lake_data import curve, tiny_config, tiny_lake
from trainer import TrainJob, TrainResult, load_metrics, run_training
from trainer.errors import DivergedError

CONFIG = tiny_config(publish="tiny")


class WatchedStore(LocalStore):
    """A real store that calls ``before`` with the key of each object it is about to write, and remembers the order."""

    def __init__(self, root: Path, before: Callable[[str], None]) -> None:
        super().__init__(root)
        self.before, self.written = before, list[str]()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.before(key)
        self.written.append(key)
        return super().put_if_absent(key, data)


def watched(path: Path, before: Callable[[str], None]) -> Lake:
    return Lake(WatchedStore(Path(tiny_lake(path).uri), before), System())


def of_checkpoint(key: str, step: int) -> bool:
    return key.startswith(f"checkpoints/run/{step:08d}-")


def test_steps_go_on_while_a_checkpoint_is_on_its_way(tmp_path: Path, whole: tuple[Lake, TrainResult]) -> None:
    """The store takes nothing of step 3's checkpoint before step 5 is done; that of step 6 waits for it to be named."""
    taken, seen = threading.Event(), list[tuple[str, int]]()

    def before(key: str) -> None:
        if of_checkpoint(key, 3):
            assert taken.wait(60)

    def watch(event: dict[str, Any]) -> None:
        if event["event"] in ("step", "checkpoint"):
            seen.append((event["event"], event["step"]))
        if event["event"] == "step" and event["step"] == 5:
            assert not lake.runs.get("run").checkpoints
            taken.set()

    lake = watched(tmp_path / "lake", before)
    run_training(TrainJob(CONFIG, lake, "run"), on_event=watch, threads=1)
    assert seen.index(("checkpoint", 3)) > seen.index(("step", 5))
    assert [step for kind, step in seen if kind == "checkpoint"] == [3, 6, 9, 12, 14]
    written = lake.store.written  # type: ignore[attr-defined]
    [third] = [at for at, key in enumerate(written) if of_checkpoint(key, 3) and key.endswith("state.json")]
    sixth = next(at for at, key in enumerate(written) if of_checkpoint(key, 6))
    assert [key for key in written[third:sixth] if key.startswith("runs/run/")], "named before the next one began"
    assert curve(load_metrics(lake, "run")) == curve(load_metrics(whole[0], "whole"))


@pytest.mark.parametrize("problem", ["refused", "lost"])
def test_what_went_wrong_is_raised_and_nothing_is_named(
    tmp_path: Path, whole: tuple[Lake, TrainResult], problem: str
) -> None:
    def before(key: str) -> None:
        if of_checkpoint(key, 6) and key.endswith("optimizer.safetensors"):
            if problem == "refused":
                raise StoreUnavailableError("the store is away: wait")
            LocalStore(Path(lake.uri)).put_if_absent(key, b"not what was written")

    lake = watched(tmp_path / "lake", before)
    with pytest.raises(StoreUnavailableError if problem == "refused" else CorruptObjectError):
        run_training(TrainJob(CONFIG, lake, "run"), threads=1)
    assert [checkpoint.step for checkpoint in lake.runs.get("run").checkpoints] == [3]
    healthy = Lake.open(lake.uri)
    run_training(TrainJob(CONFIG, healthy, "run"), threads=1)
    assert curve(load_metrics(healthy, "run")) == curve(load_metrics(whole[0], "whole"))


def test_stopping_and_diverging_wait_for_what_is_on_its_way(tmp_path: Path) -> None:
    def before(key: str) -> None:
        if key.startswith("checkpoints/"):
            time.sleep(0.05)  # far longer than a step

    stop = threading.Event()

    def stop_at_4(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            stop.set()

    lake = watched(tmp_path / "lake", before)
    stopped = run_training(TrainJob(CONFIG, lake, "run"), stop=stop, on_event=stop_at_4, threads=1)
    assert (stopped.status, stopped.step) == ("stopped", 5)
    assert [checkpoint.step for checkpoint in lake.runs.get("run").checkpoints] == [3, 5]
    leaps = {"optimizer": {"lr": 1e30, "grad_clip": None}, "schedule": {}, "checkpoint_every": 1}
    with pytest.raises(DivergedError) as caught:
        run_training(TrainJob(tiny_config(**leaps), lake, "leaps"), threads=1)
    kept = lake.runs.get("leaps").checkpoints[-1].step if lake.runs.get("leaps").checkpoints else 0
    assert f"the checkpoint at step {kept} is kept" in str(caught.value) or "weight" in str(caught.value)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint-")]


def test_a_run_taken_over_meanwhile_names_nothing_more(tmp_path: Path) -> None:
    taken_over = threading.Event()

    def before(key: str) -> None:
        if of_checkpoint(key, 3):
            assert taken_over.wait(60)

    def take_over(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            state = lake.runs.get("run").state
            Lake.open(lake.uri).runs.start("run", state["kind"], state["config"], state["inputs"])
            taken_over.set()

    lake = watched(tmp_path / "lake", before)
    with pytest.raises(RunFencedError, match="run 'run' belongs to another process now"):
        run_training(TrainJob(CONFIG, lake, "run"), on_event=take_over, threads=1)
    assert lake.runs.get("run").checkpoints == ()
