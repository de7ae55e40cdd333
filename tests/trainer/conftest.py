"""One lake per test, one tiny uninterrupted run per session."""

from pathlib import Path

import pytest
import torch

from datalake import Lake
from tests.trainer.lake_data import tiny_config, tiny_lake
from trainer import TrainJob, TrainResult, run_training


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tests' tensors are tiny: threads would only wait for each other, long where other work is running."""
    torch.set_num_threads(1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return tiny_lake(tmp_path / "lake")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, TrainResult]:
    """The run "whole" of ``tiny_config()``, never interrupted."""
    lake = tiny_lake(tmp_path_factory.mktemp("whole") / "lake")
    return lake, run_training(TrainJob(tiny_config(publish="tiny"), lake, "whole"), threads=1)
