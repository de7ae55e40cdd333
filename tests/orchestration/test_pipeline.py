"""The pipeline: one command from parameters to published models, killed and run again, stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from datalake import Lake, lineage
from orchestration.errors import InvalidRequestError
from orchestration.pipeline.config import parse_pipeline
from orchestration.runs.view import view_run
from tests.ray_fixtures import TINY_SPEC, inline_toml
from tests.trainer.lake_data import add_dataset, patterned
from trainer.errors import ConfigError

TRAINING = {
    "steps": 12,
    "batch_sequences": 4,
    "checkpoint_every": 4,
    "eval_sequences": 8,
    "model": {"depth": 1, "dim": 16, "heads": 2},
}
PIPELINE = {
    "params": TINY_SPEC,
    "generate": {"tokens": 64 * 128, "shard_sequences": 16, "heldout_sequences": 8},
    "pre": TRAINING,
    "language": TRAINING | {"data": [{"dataset": "words@1"}], "eval": ["words@1"], "transfer": {"what": "attn"}},
    "baseline": True,
}


@pytest.fixture
def lake(tmp_path):
    (tmp_path / "tiny.toml").write_text(inline_toml(PIPELINE))
    lake = Lake.open(str(tmp_path / "lake"))
    add_dataset(lake, "words", patterned(24, length=TINY_SPEC["seq_len"]), kind="text")
    return lake


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_killed_once_it_ends_by_the_same_command_and_names_all_it_made(lake, morphogen, ray_cluster):
    command = ("pipeline", "tiny.toml", "--run=p", f"--lake={lake.uri}", "--json", "--workers=1", "--actors=1")
    process = morphogen.start(*command, RAY_ADDRESS=ray_cluster.address)
    deadline = time.monotonic() + 300
    while not list((morphogen.cwd / "lake").glob("checkpoints/p-pre/*/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert view_run(lake, "p")["state"] == "lost"

    again = morphogen.start("runs", "resume", "p", f"--lake={lake.uri}", "--json", RAY_ADDRESS=ray_cluster.address)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    result = json.loads(out)
    assert result["dataset"] == "tiny@1"
    assert result["heldout"] == "tiny-heldout@1"
    assert {name: each["model"] for name, each in result["trainings"].items()} == {
        name: f"tiny-{name}@1" for name in ("pre", "language", "baseline")
    }
    assert [each["moved"] > 0 for each in result["trainings"].values()] == [False, True, False]
    view = view_run(lake, "p")
    assert (view["state"], view["kind"], view["attempts"], view["result"]) == ("finished", "pipeline", 2, result)
    stages = ("generate", "heldout", "pre", "language", "baseline")
    assert {stage: child["run"] for stage, child in view["children"].items()} == {name: f"p-{name}" for name in stages}
    assert {view_run(lake, child["run"])["state"] for child in view["children"].values()} == {"finished"}
    assert view_run(lake, "p-pre")["attempts"] == 2
    (parent,) = lineage(lake, "tiny-language@1")["parents"]
    assert [each["ref"] for each in parent["params"]] == ["tiny@1"]
    assert lake.datasets.manifest("tiny@1").tokens == 64 * 128


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"generate": {"tokens": 0}}, InvalidRequestError, "generate.tokens"),
        ({"genrate": {}}, InvalidRequestError, "genrate"),
        ({"pre": TRAINING | {"step": 3}}, ConfigError, r"\[pre\] step"),
        ({"language": TRAINING | {"transfer": {"what": "attn"}}}, ConfigError, r"\[language\] data"),
        ({"language": None}, InvalidRequestError, "baseline"),
    ],
)
def test_a_mistake_anywhere_in_the_file_is_found_before_any_work(changes, error, named):
    with pytest.raises(error, match=named) as raised:
        parse_pipeline(PIPELINE | changes, "tiny")
    assert "\n" not in str(raised.value)
