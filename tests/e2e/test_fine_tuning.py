"""The guide to fine-tuning, command by command as it stands there: from automata to pass@k."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from datalake import Lake
from orchestration.cli import main
from tests.ray_fixtures import ROOT
from trainer import load_metrics

GUIDE = ROOT / "docs" / "guides" / "fine-tuning.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    said = capsys.readouterr()
    assert ended.value.code in (0, None), f"{line}: {said.err}"
    return said.out


def test_the_guide_s_commands_lead_to_a_tuned_model(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHOGEN_LAKE", str(tmp_path / "lake"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is tiny: threads would only wait for each other
    lines = []
    for language, block in FENCE.findall(GUIDE.read_text(encoding="utf-8")):
        if language == "toml":
            if name := re.match(r"# (\S+\.toml)\n", block):
                (tmp_path / name[1]).write_text(block)
        elif language == "bash":
            lines += [line.split(" #")[0] for line in block.replace("\\\n", " ").splitlines()]
    assert len(lines) == 11
    said = {line: run(f"{line.removeprefix('morphogen ')} --json", capsys) for line in lines}
    torch.set_num_threads(threads)

    lake = Lake.open(str(tmp_path / "lake"))
    found = [row for row in load_metrics(lake, "tuned") if "eval" in row]
    probes = [row["eval"]["sft-heldout@1"]["answers"] for row in found]
    assert [row["step"] for row in found] == [20, 40]
    assert probes[1]["loss"] < probes[0]["loss"]
    assert probes[0]["answers"] == 40, "as many as problems are held out"
    *_, scored, sampled, shown = [json.loads(out) for out in said.values()]
    assert scored["data"]["sft-heldout@1"]["answers"]["loss"] == pytest.approx(probes[1]["loss"], rel=1e-5)
    assert sampled["pass_at"].keys() >= {"pass@1", "pass@4"}
    assert (len(sampled["pass_at"]["problems"]), sampled["pass_at"]["shots"]) == (40, 0)
    assert shown["pass_at"]["shots"] == 1
    lineage = lake.models.get("tuned@1")
    assert lineage.datasets == ("sft@1",)
