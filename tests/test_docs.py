"""What the documentation shows is so: its commands are ones that the command line takes, its Python runs."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import typer

from orchestration.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "experiments").glob("*.md")),
]
PAGES = [page for page in PAGES if page.exists() and page.name != "log.md"]  # the log says what was typed then
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STARTS = ("morphogen ", "python -m orchestration ", "python -m morphogen ")


def commands() -> list[tuple[str, str]]:
    """(page, command line after the program's name) of every line in the pages' bash blocks that runs it."""
    found = []
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language not in ("bash", "sh", "console"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                for start in STARTS:
                    _, mark, rest = line.replace(".venv/bin/", "").partition(start)
                    if mark and not line.lstrip().startswith("#"):
                        found.append((str(page.relative_to(ROOT)), rest.split(" #")[0].split(";")[0].strip()))
                        break
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_of_the_documentation_parses(page, line):
    words = shlex.split(line.replace("…", "x"))
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    command.make_context("morphogen", words)  # parses and checks, runs nothing; a usage error raises


def test_there_are_commands_to_check():
    assert len(commands()) > 30


@pytest.mark.parametrize("name", ["first-dataset", "own-trainer"])
def test_a_tutorial_s_python_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    blocks = [block for language, block in FENCE.findall(text) if language == "python"]
    assert len(blocks) > 2
    names: dict = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for number, block in enumerate(blocks):
            exec(compile(block, f"{name}.md, block {number}", "exec"), names)
    assert capsys.readouterr().out


def test_the_readme_is_five_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250
