"""Models and checkpoints larger than one object may be: several files, where a store refuses more; none held twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from datalake import Lake
from datalake.errors import ObjectTooLargeError
from orchestration.evaluation.hf_export import write_hf_folder
from orchestration.evaluation.models import held_out, open_dataset, open_model
from tests.limit_proxy import limit_proxy
from tests.s3server import S3Server
from tests.trainer.lake_data import add_dataset, curve, patterned, tiny_config, tiny_lake
from trainer import TrainConfig, TrainJob, load_metrics, run_training
from trainer.tensor_files import VARIABLE

LIMIT = 150_000
# 430 kB of weights, 860 kB of moments; the largest tensor has 49 kB.
WIDE: dict[str, Any] = {
    "model": {"depth": 2, "dim": 64, "heads": 2},
    "steps": 4,
    "schedule": {},
    "publish": "wide",
    "average": {},
}


class Killed(BaseException):
    """What ends an attempt in the middle."""


def config(**changes: Any) -> TrainConfig:
    return tiny_config(**{**WIDE, **changes})


def train_and_kill(lake: Lake, run: str, kill_at: int) -> None:
    """One attempt killed after step ``kill_at``, and one that goes on to the end."""

    def killing(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run_training(TrainJob(config(), lake, run), on_event=killing, threads=1)
    run_training(TrainJob(config(), lake, run), threads=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake whose run and model are in single files."""
    lake = tiny_lake(tmp_path_factory.mktemp("whole") / "lake")
    run_training(TrainJob(config(), lake, "run"), threads=1)
    return lake


@pytest.mark.parametrize("lowered", [True, False], ids=["limit set", "limit found out"])
def test_a_store_that_takes_little_in_one_request(
    s3_env: S3Server,
    whole: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lowered: bool,
) -> None:
    """Checkpoints, resume, publishing, transfer, evaluation and export; the losses are those of single files."""
    if lowered:
        monkeypatch.setenv(VARIABLE, str(LIMIT))
    with limit_proxy(s3_env, LIMIT) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        lake = Lake.open(f"s3://lake/parts-{lowered}")
        add_dataset(lake, "train", patterned(22))
        add_dataset(lake, "held", patterned(10, seed=1))
        with pytest.raises(ObjectTooLargeError, match=r"the store takes no 150001 bytes in one request"):
            lake.store.put_if_absent("too/large", b"x" * (LIMIT + 1))
        train_and_kill(lake, "run", kill_at=4)
        assert curve(load_metrics(lake, "run")) == curve(load_metrics(whole, "run"))
        files = lake.runs.get("run").checkpoints[-1].files
        for kind in ("model", "optimizer", "average"):
            assert len([name for name in files if name.startswith(f"{kind}-0000")]) > 2

        version = lake.models.get("wide@1")
        assert max(facts["bytes"] for facts in version.files.values()) <= LIMIT
        index = json.loads(lake.models.open_file(version, "model.safetensors.index.json"))
        assert set(index["weight_map"].values()) == {name for name in version.files if name.endswith("safetensors")}

        (tmp_path / "hf").mkdir()
        write_hf_folder(lake, version, tmp_path / "hf")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
        ours = open_model(lake, "wide@1")
        single = open_model(whole, "wide@1").model
        x_BT = torch.randint(0, 32, (2, 20), generator=torch.Generator().manual_seed(0))
        assert torch.equal(ours.model.logits(x_BT), single.logits(x_BT))
        torch.testing.assert_close(theirs(x_BT).logits, single.logits(x_BT), rtol=1e-4, atol=1e-4)
        scores = held_out(ours, [open_dataset(lake, ours, "held@1")], None, lambda _done, _note: None)
        assert scores["held@1"]["sequences"] == 10

        carried = {"transfer": {"source": "wide@1", "what": "all"}, "publish": None, "steps": 2, "eval": []}
        for where in (lake, whole):
            run_training(TrainJob(config(**carried), where, "carried"), threads=1)
        assert curve(load_metrics(lake, "carried")) == curve(load_metrics(whole, "carried"))


def test_a_tensor_larger_than_the_limit_is_cut_in_checkpoints_and_named_in_models(
    s3_env: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face's layout cuts no tensor, so what a store cannot take at all is said."""
    monkeypatch.setenv(VARIABLE, "20000")  # a matrix of 64 × 192 has 49,152 bytes
    with limit_proxy(s3_env, 30_000) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        lake = Lake.open("s3://lake/cut")
        add_dataset(lake, "train", patterned(22))
        with pytest.raises(ObjectTooLargeError, match=r"model-files/wide/.*the store takes no 49\d+ bytes"):
            run_training(TrainJob(config(eval=[], steps=1, schedule={}), lake, "run"), threads=1)
        assert [checkpoint.step for checkpoint in lake.runs.get("run").checkpoints] == [1]


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from datalake import Lake
from tests.trainer.lake_data import tiny_config, tiny_lake
from trainer.checkpoint import snapshot, unpack, upload
from trainer.average import Average
from trainer.config import ModelConfig
from trainer.inputs import open_inputs
from trainer.model import Llama
from trainer.optim import Optimizer
from trainer.publish import publish
from trainer.published import open_published
from trainer.ranks import Ranks
from trainer.tensor_files import FileLimit, tensor_bytes

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
lake = tiny_lake(Path(sys.argv[1]))
config = tiny_config()
inputs = open_inputs(config, lake)
model = Llama(ModelConfig(depth=8, dim=512, layers=8).shape(32), seed=None)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(0.01)
size = sum(map(tensor_bytes, model.parameters())) / 2**20
limit = FileLimit(8 << 20)
run = lake.runs.start("run", "train", {}, {})
before = peak()
publish("big", lake, "run", inputs, model, {}, Ranks(0, 1, torch.device("cpu")), limit)
published = peak()
optimizer, average = Optimizer(model, config.optimizer), Average(model, None)
taken = snapshot(model, optimizer, average, {"step": 1})
copied = peak()
prefix = run.checkpoint_prefix(1)
digests = upload(taken, limit, lambda files: run.upload_checkpoint(prefix, files))
checkpoint = run.name_checkpoint(1, prefix, digests)
del taken
uploaded = peak()
run.latest_valid_checkpoint()
unpack(run.open_checkpoint(checkpoint), model, optimizer, average)
resumed = peak()
opened = open_published(lake, lake.models.get("big"))
print(size, before, published, copied, uploaded, resumed, peak(), sep=",")
"""


def test_nothing_is_held_twice(tmp_path: Path) -> None:
    """Peaks of a process that holds 100 MiB of weights: files and reading add pieces, only the copy adds a copy."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "lake")], cwd=root, capture_output=True, text=True, check=True
    )
    size, before, published, copied, uploaded, resumed, opened = map(float, done.stdout.split(","))
    assert size > 90
    room = 40  # MiB: chunks of 8 MiB, one tensor, the allocator's own
    assert published - before < room
    assert copied - published < size + room
    assert uploaded - copied < room
    assert resumed - uploaded < room
    assert opened - resumed < room, "the copy's memory is free again, and one model fits into it"
