"""Pictures: every cell where it belongs in its own colour, colours that every eye tells apart, clear refusals."""

import io

import numpy as np
import pytest
from PIL import Image

from generator import decode_tokens, generate_batch, parse_spec
from orchestration.errors import PictureError
from orchestration.reports.picture import PALETTE, animation, palette, sheet_of, trajectory_sheet

# Linear-RGB matrices at full severity from Machado, Oliveira and Fernandes (2009), table 1.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def random_frames(*shape: int, colors: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, colors, shape, dtype=np.uint8)


def count_of(image: np.ndarray, rgb: np.ndarray) -> int:
    return int((image == rgb).all(axis=-1).sum())


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = np.clip(linear, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)


def closest_pair(colors: int, deficiency: str | None) -> float:
    """The smallest CIE76 difference between two colours of the palette, seen with a deficiency."""
    value = palette(colors) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    if deficiency:
        linear = linear @ np.array(DEFICIENCIES[deficiency]).T
    seen = lab(linear)
    return min(float(np.linalg.norm(seen[a] - seen[b])) for a in range(colors) for b in range(a))


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
@pytest.mark.parametrize("colors", [4, 10, 16])
def test_colours_stay_apart_for_every_eye(colors, deficiency):
    assert closest_pair(colors, deficiency) > 10  # a difference of 2.3 is just noticeable side by side


def test_many_colours_are_all_different():
    assert len({tuple(rgb) for rgb in palette(200).tolist()}) == 200
    assert ["#" + bytes(rgb).hex().upper() for rgb in palette(16).tolist()] == PALETTE


def test_a_sheet_shows_each_cell_as_a_square_of_its_colour():
    frames = random_frames(3, 4, 6, 6, colors=4)
    image = pixels(trajectory_sheet(frames, [0.1, 0.2, 0.3], 4, title="A title", caption="and what it is"))
    cell, swatch = 84 // 6, 13 * 13  # the legend's swatch is 15 pixels across with its outline
    for color, rgb in enumerate(palette(4)):
        assert count_of(image, rgb) == (frames == color).sum() * cell**2 + swatch


def test_a_sheet_places_frames_in_reading_order():
    frames = np.zeros((2, 3, 2, 2), dtype=np.uint8)
    frames[1, 2] = [[1, 2], [3, 0]]
    image = pixels(trajectory_sheet(frames, [0, 0], 4, first_step=10))
    above_legend = image[: -28 - 14]
    corner = {}
    for color in (1, 2, 3):
        rows, columns = np.nonzero((above_legend == palette(4)[color]).all(axis=-1))
        corner[color] = (rows.min(), columns.min())
    assert corner[2] == (corner[1][0], corner[1][1] + 42)
    assert corner[3] == (corner[1][0] + 42, corner[1][1])


def test_slices_of_a_volume_stand_in_a_row():
    frames = random_frames(1, 2, 3, 4, 4, colors=3)
    image = pixels(trajectory_sheet(frames, [0.5], 3))
    cell = 54 // 4
    for color, rgb in enumerate(palette(3)):
        assert count_of(image, rgb) == (frames == color).sum() * cell**2 + 13 * 13


def test_the_sheet_of_a_batch_draws_its_own_frames():
    spec = parse_spec({"family": "nca", "grid": [6, 6], "colors": 3, "embed": 2, "hidden": 4, "seq_len": 40})
    table = generate_batch(spec, 5, 0, 2, backend="reference")
    frames = np.stack([decode_tokens(spec, np.frombuffer(row, dtype="<u2")) for row in table["tokens"].to_pylist()])
    drawn = trajectory_sheet(
        frames, table["score_normalized"].to_numpy(), 3, labels=["#0", "#1"], first_step=spec.burn_in
    )
    assert sheet_of(spec, table) == drawn


def test_an_elementary_automaton_becomes_one_picture_with_time_running_down():
    spec = parse_spec({"family": "eca", "grid": [16], "patch": 8, "rule": 90, "seq_len": 64})
    table = generate_batch(spec, 0, 0, 1)
    frames_FW = decode_tokens(spec, np.frombuffer(table["tokens"][0].as_py(), dtype="<u2"))
    image = pixels(sheet_of(spec, table))
    cell = 84 // 16
    assert count_of(image, palette(2)[1]) == frames_FW.sum() * cell**2 + 13 * 13


def test_sequences_without_frames_are_refused():
    spec = parse_spec({"family": "dyck", "seq_len": 64})
    with pytest.raises(PictureError, match="no frames to draw"):
        sheet_of(spec, generate_batch(spec, 0, 0, 1))


@pytest.mark.parametrize("format", ["gif", "apng"])
def test_an_animation_plays_every_frame_in_exact_colours(format):
    frames = random_frames(3, 5, 6, 6, colors=10)
    moving = Image.open(io.BytesIO(animation(frames, [0.1, 0.2, 0.3], 10, format=format)))
    assert moving.n_frames == 5
    assert moving.info["loop"] == 0
    for step in range(5):
        moving.seek(step)
        image = np.asarray(moving.convert("RGB"))
        top_left = image[10 : 10 + 6 * 21 : 21, 10 : 10 + 6 * 21 : 21]
        assert (top_left == palette(10)[frames[0, step]]).all()


def test_the_same_frames_make_the_same_bytes():
    frames = random_frames(2, 3, 4, 4, colors=4)
    for draw in (trajectory_sheet, animation):
        assert draw(frames, [0, 1], 4) == draw(frames, [0, 1], 4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"frames": np.zeros((2, 3, 4), dtype=np.uint8)}, r"shape \[2, 3, 4\] is neither"),
        ({"frames": np.zeros((0, 3, 4, 4), dtype=np.uint8)}, r"shape \[0, 3, 4, 4\]"),
        ({"colors": 3}, "colour 3 is outside 0 to 2"),
        ({"colors": 1}, "1 is outside 2 to 256"),
        ({"scores": [0.1]}, "1 for 2 trajectories"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, says):
    fitting = {"frames": np.full((2, 3, 4, 4), 3, dtype=np.uint8), "scores": [0, 1], "colors": 4}
    for draw in (trajectory_sheet, animation):
        with pytest.raises(PictureError, match=says):
            draw(**fitting | arguments)


def test_another_animation_format_is_refused():
    with pytest.raises(PictureError, match="use 'gif' or 'apng'"):
        animation(random_frames(1, 2, 4, 4, colors=2), [0], 2, format="webp")  # type: ignore[arg-type]
