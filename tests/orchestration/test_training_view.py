"""What a person watching a run is told, live and in a log, from the events of a real run; W&B gets the same ones."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from datalake import Lake
from orchestration.cli import main
from orchestration.console.training import TrainingView, training_display
from tests.ray_fixtures import toml_of
from tests.trainer.lake_data import tiny_config, tiny_lake
from trainer import TrainJob, run_training, wandb_run


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    lake = tiny_lake(tmp_path_factory.mktemp("view") / "lake")
    seen: list[dict[str, Any]] = []
    run_training(TrainJob(tiny_config(steps=6, eval_every=3), lake, "seen"), threads=1, on_event=seen.append)
    return seen


def shown(events: list[dict[str, Any]], **console: Any) -> str:
    """All that is written while ``events`` pass, a second each."""
    out = io.StringIO()
    seconds = count()
    with training_display(
        "train seen", 6, console=Console(file=out, width=160, **console), clock=lambda: float(next(seconds))
    ) as on_event:
        for event in events:
            on_event(event)
    return out.getvalue()


def test_a_log_gets_plain_lines_with_every_figure(events: list[dict[str, Any]]) -> None:
    text = shown([event | {"mfu": 0.4125} if event["event"] == "step" else event for event in events])
    assert "\x1b" not in text
    last = next(line for line in text.splitlines() if line.startswith("  step 6/6 (100 %)"))
    step = next(event for event in events if event["event"] == "step" and event["step"] == 6)
    assert f"loss {step['loss']:.4f}" in last
    assert f"tokens/s {step['tokens_per_s']:,.0f}" in last
    assert f"data wait {step['data_wait']:.1%}" in last
    assert f"gradient norm {step['grad_norm']:.3g}" in last
    assert "MFU 41.2%" in last
    assert "ETA 0:00:00" in last
    assert "tensors by group: " in text
    assert text.count("eval at step ") == 2
    assert "eval at step 6: held@1  loss " in text
    assert "gate not passed (unigram entropy " in text
    assert text.splitlines()[-1].startswith("✓ train seen (")


def test_a_terminal_gets_one_panel_that_is_drawn_again(events: list[dict[str, Any]]) -> None:
    text = shown(events, force_terminal=True)
    assert "\x1b[1A" in text, "the panel moves up to be drawn again"
    for name in ("loss", "tokens/s", "data wait", "gradient norm", "ETA", "6/6", "eval at step 6: held@1"):
        assert name in text
    assert "MFU" not in text, "unknown on this device"


def test_time_to_go_is_at_the_pace_of_this_attempt() -> None:
    view = TrainingView(steps=100)
    step = {"event": "step", "loss": 1.0, "tokens_per_s": 1.0, "data_wait": 0.0, "grad_norm": 1.0, "lr": 0.1}
    view.take(step | {"step": 40}, now=1000.0)
    assert view.eta_s(1000.0) is None
    view.take(step | {"step": 50}, now=1020.0)
    assert view.eta_s(1020.0) == 100.0
    start = {"event": "start", "step": 48, "parameters": 1, "world": 1, "precision": "fp32", "batch_tokens": 1}
    view.take(start | {"groups": {}}, now=2000.0)
    assert view.eta_s(2000.0) is None, "what lies before a restart says nothing"
    view.take(step | {"step": 49}, now=2001.0)
    view.take(step | {"step": 50}, now=2002.0)
    assert view.eta_s(2002.0) == 50.0
    assert view.take({"event": "worker_lost", "attempt": 1, "reason": "x"}, 1.0) == ["worker lost: attempt=1 reason=x"]


def train(tmp_path: Path) -> int:
    tiny_lake(tmp_path / "lake")
    fields = tiny_config(steps=3, schedule={}).model_dump(mode="json", exclude_defaults=True)
    data, model = fields.pop("data"), fields.pop("model")
    text = toml_of({**fields, "eval": ["held@1"], "model": model}) + f'[[data]]\ndataset = "{data[0]["dataset"]}"\n'
    (tmp_path / "train.toml").write_text(text)
    arguments = ["train", tmp_path / "train.toml", "--no-ray", "--wandb", "morphogen", "--lake", tmp_path / "lake"]
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments), "--json"])
    return int(exit_.value.code or 0)


def test_without_wandb_the_extra_is_named_before_training(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python's import takes for "not installed"
    assert train(tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.err.endswith(
        "error: wandb = 'morphogen': the package wandb is not installed; install the extra 'wandb' "
        "(pip install 'morphogen[wandb]') or leave wandb out\n"
    )


def test_wandb_offline_gets_every_step_and_evaluation(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert train(tmp_path) == 0
    import wandb

    wandb.teardown()  # as at the end of a process: waits for W&B's own, which writes the file
    run = json.loads(capsys.readouterr().out)["run"]
    [written] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = written.read_bytes()
    assert run in written.name
    assert b"train/loss" in data
    assert b"eval/held.1/perplexity" in data


def test_without_a_key_wandb_is_refused_before_training(tmp_path: Path, capsys, monkeypatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert train(tmp_path) == 2
    said = capsys.readouterr().err
    assert "error: wandb = 'morphogen': no API key found; set WANDB_API_KEY, set WANDB_MODE=offline" in said
    assert "loss" not in said
    assert Lake.open(str(tmp_path / "lake")).runs.list() == []


def test_a_run_survives_wandb_s_own_process(tmp_path: Path, capsys, monkeypatch) -> None:
    """W&B's service is killed after the first step: the losses come to their end, said once, exit code 0."""
    import wandb

    wandb.teardown()  # of an earlier test's
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    real = wandb_run._Mirror.log
    killed: list[int] = []

    def log(mirror: Any, event: dict[str, Any]) -> None:
        real(mirror, event)
        if event["event"] == "step" and not killed:
            for child in Path("/proc/self/task").glob("*/children"):
                for pid in map(int, child.read_text().split()):
                    if b"wandb" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    monkeypatch.setattr(wandb_run._Mirror, "log", log)
    assert train(tmp_path) == 0
    captured = capsys.readouterr()
    assert killed
    assert captured.err.count("W&B is lost") == 1
    assert json.loads(captured.out)["status"] == "finished"
