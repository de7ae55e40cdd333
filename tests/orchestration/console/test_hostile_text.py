"""What others wrote is shown and never obeyed: hostile text in every field of a lake, on every command and page."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from datalake.canonical import canonical_json
from datalake.registry.access import TokenLog
from orchestration.cli import main
from orchestration.console import progress
from orchestration.console.foreign import shown, shown_lines, styled
from orchestration.console.output import SafeConsole, flat_rows
from tests.ray_fixtures import ROOT
from tests.serve.lake_content import fill

# Sets the window's title, clears the screen (two ways), reorders and hides the line, forges another, is markup.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e\u2066\u200b\r\nFORGED\u2028FORGED\x85FORGED\x7f[/nope][bold]:smile:\x00"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # what we ourselves write to a terminal

# What the objects of each kind are shown by.
COMMANDS = {
    "params": ["params list", "params history tiny", "params watch tiny"],
    "specs": ["params show tiny", "params diff tiny@1 tiny@2"],
    "datasets": ["data list", "data show grids"],
    "manifests": ["data show prose", "data head prose -n 1"],
    "models": ["models list", "models show language-model", "lineage language-model"],
    "runs": ["runs list", "runs show language"],
    "pulses": ["runs show orphan"],
    "access": ["tokens list"],
    "claims": ["data gc"],
    "collections": ["data gc"],
}
MORE = {"params watch tiny": ["--after", "0", "--count", "3"]}


@pytest.fixture(scope="module")
def lake_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "lake"
    lake = Lake.open(str(folder))
    fill(lake)
    TokenLog(lake.store, lake.system).create("ada", "reader")
    note = {"groups": ["data/abc"], "what": "a commit", "author": "ada", "time": lake.system.timestamp()}
    for kind in ("claims", "collections"):  # as a killed process leaves them
        lake.store.put_if_absent(f"{kind}/{lake.system.nonce()}.json", canonical_json(note))
    return folder


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every string in a JSON document, and of every name of a field."""
    if isinstance(document, str):
        yield path
    nested = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, inner in nested:
        yield from leaves(inner, (*path, name))


def spoil(document: Any, path: tuple[Any, ...], text: str) -> Any:
    """The document with hostile text behind the string at ``path``."""
    if not path:
        return document + text
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = spoil(copy[path[0]], path[1:], text)
    return copy


def spoiled_lakes(folder: Path, scratch: Path, text: str = HOSTILE) -> Iterator[tuple[str, Path]]:
    """Lakes that have hostile text in one field, of every object that has it."""
    objects: dict[tuple[str, ...], dict[Path, tuple[Any, ...]]] = {}
    for path in sorted(folder.rglob("*.json")):
        kind = path.relative_to(folder).parts[0]
        for leaf in leaves(json.loads(path.read_text())):
            alike = (kind, *(part if isinstance(part, str) else "*" for part in leaf))
            objects.setdefault(alike, {})[path.relative_to(folder)] = leaf
    for alike, places in objects.items():
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(folder, scratch, copy_function=os.link)
        for path, leaf in places.items():
            document = spoil(json.loads((folder / path).read_text()), leaf, text)
            (scratch / path).unlink()
            (scratch / path).write_text(json.dumps(document))
        yield "/".join(alike), scratch


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


def check(text: str, where: str) -> None:
    """Nothing that a terminal obeys, no line of its own."""
    text = COLOURS.sub("", text)
    bad = {character for character in text if not character.isprintable() and character != "\n"}
    assert not bad, (where, bad, text)
    assert not [line for line in text.splitlines() if line.lstrip().startswith("FORGED")], (where, text)
    assert "Traceback" not in text, (where, text)


def test_every_command_shows_every_string_of_the_lake_as_text(lake_folder, tmp_path, capsys, monkeypatch):
    """Messages, authors, names of fields' values, digests that are none: whatever a lake of others may hold."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "300")
    spoiled = 0
    for what, lake in spoiled_lakes(lake_folder, tmp_path / "lake"):
        for command in COMMANDS.get(what.split("/")[0], ()):
            code, text = run(capsys, *command.split(), *MORE.get(command, ()), "--lake", str(lake))
            check(text, f"{command} with hostile {what}")
            assert code in (0, 1, 2), (command, what, text)
            spoiled += "FORGED" in text
    assert spoiled > 30, "the hostile text is shown, in many places"


def test_what_a_line_is_made_of():
    assert shown("plain, Ünï-cødé, 漢字, 🙂") == "plain, Ünï-cødé, 漢字, 🙂"
    assert shown("a\tb\r\nc") == r"a\tb\r\nc"
    assert shown("\x1b[31m\x9b2J\x00\x7f") == r"\x1b[31m\x9b2J\x00\x7f"
    assert shown("\u202egnp.exe\u2069\u200b\ufeff") == r"\u202egnp.exe\u2069\u200b\ufeff"
    assert shown("\udcff\U000e0041") == r"\udcff\U000e0041"
    assert shown("no\u00a0break") == "no break"
    assert shown("a\u2028b\x85c") == r"a\u2028b\x85c"
    assert shown(ValueError("x\ny")) == r"x\ny"
    assert shown_lines("one\r\ntwo\n\x1b") == ["one", "two", r"\x1b"]
    assert styled("[red]", ("[b]", "bold")).plain == "[red][b]"


def test_progress_is_plain_on_a_terminal_and_in_a_log(monkeypatch):
    for terminal in (True, False):
        out = io.StringIO()
        monkeypatch.setattr(progress, "console", SafeConsole(file=out, force_terminal=terminal, width=400))
        seconds = iter(range(0, 1000, 10))
        with progress.stage(f"title {HOSTILE}", 10, clock=lambda seconds=seconds: float(next(seconds))) as advance:
            advance(3, f"note {HOSTILE}")
            progress.console.print(f"aside {HOSTILE}")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "")
        assert "\x1b" not in text
        assert all(character.isprintable() or character == "\n" for character in text), text
        assert "[/nope][bold]:smile:" in text


def test_a_command_line_s_own_words_are_shown_as_text(capsys):
    for arguments in (
        [HOSTILE.replace("\x00", "")],
        ["--\x1b[31mno"],
        ["params", "show", HOSTILE],
        ["params", "list", "--lake", "/dev/null/\x1b]0;x\x07\nFORGED"],
        ["data", "head", "x", "-n", "\x1b[2J\nFORGED"],
        ["serve", "--host", "\x1b[2J\nFORGED"],
        ["runs", "show", "\udcff\u202e"],
    ):
        code, text = run(capsys, *arguments)
        assert code == 2, text
        check(text, repr(arguments))
        assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1


def test_nested_values_are_rows_and_empty_ones_are_left_out():
    document = {
        "optimizer": {"lr": 0.001, "muon": {"momentum": 0.95}, "betas": [0.9, 0.95]},
        "evals": {},
        "message": "",
        "parent": None,
        "data": [{"dataset": "a@1"}, {"dataset": "b@2", "weight": 2}],
        "grid": [12, 12],
        "wrap": False,
        "steps": 12000,
        "seed": 0,
        "long": list(range(100)),
    }
    assert flat_rows(document) == [
        ("optimizer.lr", "0.001"),
        ("optimizer.muon.momentum", "0.95"),
        ("optimizer.betas", "0.9, 0.95"),
        ("data.0.dataset", "a@1"),
        ("data.1.dataset", "b@2"),
        ("data.1.weight", "2"),
        ("grid", "12, 12"),
        ("wrap", "false"),
        ("steps", "12,000"),
        ("seed", "0"),
        ("long", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, and 84 more"),
    ]


def test_nothing_is_printed_past_the_functions_that_make_text_plain():
    """In orchestration only the console's own files may print, make a console, or put rich's Text together."""
    found = []
    for path in sorted((ROOT / "orchestration").rglob("*.py")):
        # Programs of their own print for whoever started them: a pod, a check under limits, the sandbox.
        program = '__name__ == "__main__"' in path.read_text() and path.name != "cli.py"
        if path.parent.name == "console" or program or path.name.startswith("sandbox_"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "typer.echo", "typer.secho", "Console", "Text", "Text.from_markup", "rprint"):
                    found.append(f"{path.name}:{node.lineno} {called}")
                if called.startswith(("sys.stdout.", "sys.stderr.")):
                    found.append(f"{path.name}:{node.lineno} {called}")
    assert not found
