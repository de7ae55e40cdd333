"""`python -m benchmarks.gpu`: whatever becomes of a part, the rest is run and all that was found is kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import comparison, lattice, trainer
from benchmarks.gpu.conductor import Part, Results, conduct
from benchmarks.gpu.page import page
from benchmarks.gpu.report import Report, read_figures

ROOT = Path(__file__).parents[1]
# What torch, numba or transformers ask for, too.
NEEDED_BY_OTHERS = {"matplotlib", "psutil", "scipy", "safetensors", "jinja2", "tokenizers", "huggingface_hub"}
FINDS = "import sys, time; open(sys.argv[2], 'a').write('{\"speed\": 3.5}\\n'); "


def fake(name: str, code: str, **fields: Any) -> Part:
    return Part(name, (sys.executable, "-c", code), fields.pop("share", 1.0), fields.pop("least", 0.0), **fields)


def test_a_part_that_fails_hangs_or_cannot_run_loses_only_itself(tmp_path: Path) -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '600']); "
    parts = [
        fake("crashes", FINDS + "sys.exit('no such device')"),
        fake("hangs", FINDS + child + "import signal; signal.signal(signal.SIGTERM, lambda *_: 0); time.sleep(600)"),
        fake("lacks", FINDS, needs=("a_package_that_nobody_has",)),
        fake("large", FINDS, least=3600),
        fake("works", FINDS),
    ]
    results = Results(
        {"gpu": None, "commit": "x", "processor": "y", "cores": 2, "python": "3", "packages": {}}, 0.4, True
    )
    said: list[str] = []
    conduct(parts, results, tmp_path, ends=time.monotonic() + 24, environment=os.environ, say=said.append)
    kept = json.loads((tmp_path / "results.json").read_text())
    by_name = {part["name"]: part for part in kept["parts"]}
    assert [part["status"] for part in kept["parts"]] == ["failed", "out of time", "left out", "left out", "done"]
    assert "exit code 1: no such device" in by_name["crashes"]["why"]
    assert "a_package_that_nobody_has" in by_name["lacks"]["why"]
    assert [len(part["figures"]) for part in kept["parts"]] == [1, 1, 0, 0, 1]
    assert "| 3.5 |" in page(results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crashes.log", "hangs.log", "results.json", "works.log"]
    assert len(said) == 8


@pytest.mark.parametrize("part", [trainer, lattice, comparison], ids=lambda part: part.__name__)
def test_parts_at_toy_size(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.trainer.find_spec", lambda _: None)  # transformers takes seconds to import
    path = tmp_path / "figures"
    part.run(Report(path, time.monotonic() + 600, toy=True))
    figures = read_figures(path)
    assert figures
    assert not [figure for figure in figures if "error" in figure]


BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"{name} is not to be needed")

sys.meta_path.insert(0, Refuse())
"""


def without_what_is_not_listed(folder: Path) -> dict[str, str]:
    """An environment in which what we depend on cannot be imported, but for what packages.txt names."""

    def names(lines: Iterable[str]) -> set[str]:
        return {re.split(r"[\\[>=;]", line.strip())[0].lower() for line in lines if line.strip()[:1] not in ("", "#")}

    listed = names((ROOT / "benchmarks/gpu/packages.txt").read_text().splitlines())
    ours = names(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    refused = {"botocore"} | {
        module
        for module, packages in packages_distributions().items()
        if {package.lower() for package in packages} & (ours - listed)
    }
    assert {"ray", "boto3", "rich"} <= refused, "or nothing is refused"
    (folder / "sitecustomize.py").write_text(f"REFUSED = {sorted(refused - NEEDED_BY_OTHERS)}\n{BLOCK}")
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_whole_command_at_toy_size_without_ray_and_s3(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", "--toy", "--minutes", "20", "--out", str(out)]
    environment = without_what_is_not_listed(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((out / "results.json").read_text())
    assert {part["name"]: part["status"] for part in kept["parts"]} == dict.fromkeys(
        ["equality", "generator", "trainer", "feeding", "lattice", "comparison"], "done"
    )
    assert all(part["figures"] for part in kept["parts"])
    assert (out / "results.md").read_text().startswith("# What the GPU run found (toy sizes")
