"""Frames on a terminal, without colour, and in a file; read back cell by cell."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

from datalake import Lake
from generator import decode_tokens, parse_spec
from orchestration.cli import main
from orchestration.console.cells import digits, draw_frames
from orchestration.console.output import SafeConsole
from orchestration.reports.picture import palette
from tests.serve.lake_content import SPEC, WIDER, add_synthetic, add_text

FRAMES = np.random.default_rng(0).integers(0, 10, (5, 7, 6)).astype(np.uint8)  # [F, H, W]


def drawn(console: SafeConsole, colors: int = 10) -> list[str]:
    out = console.file
    assert isinstance(out, io.StringIO)
    for line in draw_frames(FRAMES, palette(colors), console):
        console.print(line, soft_wrap=True)
    return out.getvalue().splitlines()


def terminal(**options) -> SafeConsole:
    return SafeConsole(file=io.StringIO(), force_terminal=True, width=30, **options)


def test_every_cell_has_its_colour_in_half_blocks():
    lines = drawn(terminal(color_system="truecolor"))
    assert len(lines) == 2 * 4 + 1, "four frames fit side by side, one stands below; two cells are one line"
    code = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)(?:;48;2;(\d+);(\d+);(\d+))?m(▀+)")
    number = {tuple(map(int, rgb)): color for color, rgb in enumerate(palette(10))}
    found = np.full((5, 8, 6), -1)
    for at, line in enumerate(lines):
        group, pair = divmod(at, 5)
        cells = [match.groups()[:6] for match in code.finditer(line) for _ in match[7]]
        for place, values in enumerate(cells):
            frame, column = divmod(place, 6)
            found[4 * group + frame, 2 * pair, column] = number[tuple(map(int, values[:3]))]
            if values[3] is not None:
                found[4 * group + frame, 2 * pair + 1, column] = number[tuple(map(int, values[3:]))]
    assert (found[:, :7] == FRAMES).all()
    assert (found[:, 7] == -1).all(), "nothing below the last row of an odd height"


@pytest.mark.parametrize("options", [{"color_system": None}, {"no_color": True}, {"color_system": "standard"}])
def test_without_enough_colours_ten_levels_of_grey(options):
    lines = drawn(terminal(**options))
    assert len(lines) == 3 * 7 + 2, "two frames of six cells of two characters fit side by side"
    levels = " .:-=+*#%@"
    assert [[levels.index(line[2 * x]) for x in range(6)] for line in lines[:7]] == FRAMES[0].tolist()
    assert [[levels.index(line[14 + 2 * x]) for x in range(6)] for line in lines[:7]] == FRAMES[1].tolist()


def test_a_file_gets_digits_of_even_width():
    console = SafeConsole(file=io.StringIO(), width=30)
    assert drawn(console)[0] == "  ".join("".join(map(str, frame[0])) for frame in FRAMES)
    assert [text.plain for text in digits(np.array([[[0, 31]]], np.uint8), 32)] == ["001f"]


def head(capsys, lake: str, *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as exit_:
        main(["data", "head", *arguments, "-n", "1", "--lake", lake])
    assert not exit_.value.code
    return capsys.readouterr().out.splitlines()[1:]


def test_data_head_draws_what_the_dataset_holds(tmp_path, capsys, monkeypatch):
    lake = Lake.open(str(tmp_path / "lake"))
    add_synthetic(lake, "grids", WIDER, 1)
    add_synthetic(lake, "volumes", {**SPEC, "grid": [4, 4, 4], "colors": 2, "seq_len": 100}, 1)
    add_synthetic(lake, "lines", {"family": "eca", "rule": 110, "grid": [32], "seq_len": 126}, 1)
    add_text(lake, "prose", "The quick\nbrown \x1b[31m fox and all of its very lazy dogs jump on.")
    plain = head(capsys, lake.uri, "grids", "--frames", "2")
    spec = parse_spec(WIDER)
    from datalake import read_shard

    [shard] = lake.datasets.manifest("grids").shards
    tokens = np.frombuffer(read_shard(lake.store, shard)["tokens"][0].as_py(), "<u2")
    cells = decode_tokens(spec, tokens)[:2]
    assert plain == ["  ".join("".join(map(str, row)) for row in rows) for rows in cells.swapaxes(0, 1)]
    assert head(capsys, lake.uri, "volumes", "--frames", "1")[0].count("  ") == 3, "four slices side by side"
    assert {len(line) for line in head(capsys, lake.uri, "lines")} == {32}
    assert head(capsys, lake.uri, "prose")[:2] == [
        "The quick",
        r"brown \x1b[31m fox and all of its very lazy dogs jump on.",
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "▀" in head(capsys, lake.uri, "grids")[0]
    assert head(capsys, lake.uri, "grids", "--frames", "2", "--plain") == plain
