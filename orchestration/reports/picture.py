"""Trajectories as pictures: a sheet with time from left to right, and an animation; every cell a crisp square.

The first eight colours are Okabe and Ito's (2008, "Color Universal Design"), black softened to ink; the next eight were
chosen to stay apart from all before them under simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009).
"""

import io
from collections.abc import Sequence
from typing import Literal

import matplotlib
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from generator import GenerationSpec, decode_tokens
from generator.spec import GridSpec
from orchestration.errors import PictureError

# fmt: off
PALETTE = [
    "#1B1F3B", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
    "#D9F7E3", "#5A2A0A", "#8A2BE2", "#99BB66", "#6E5F5F", "#BB55FF", "#4433AA", "#220000",
]
# fmt: on

_PAPER, _INK, _FAINT, _LINE = (255, 255, 255), (28, 30, 38), (104, 110, 122), (222, 225, 230)
MAX_PIXELS = 100_000_000  # of an animation: 300 MB while it is written
_MARGIN, _GAP, _SLICE_GAP, _SWATCH = 28, 10, 3, 40
_SHEET_WIDTH = 1240  # pixels that a sheet of many columns aims at: sharp on a wide page, readable when halved
_FRAME_SIZE, _SLICE_SIZE = 84, 54  # pixels across a 2-D frame, and across one slice of a 3-D one


def palette(colors: int) -> NDArray[np.uint8]:
    """RGB uint8 [colors, 3], fit for colour-blind eyes; beyond 16 colours a ramp of even lightness steps (viridis)."""
    if not 2 <= colors <= 256:
        raise PictureError(f"colors: {colors} is outside 2 to 256; give the spec's number of colours")
    if colors > len(PALETTE):
        ramp = matplotlib.colormaps["viridis"](np.linspace(0, 1, colors))[:, :3]
        return (ramp * 255).round().astype(np.uint8)
    return np.array([list(bytes.fromhex(code[1:])) for code in PALETTE[:colors]], dtype=np.uint8)


def sheet_of(spec: GenerationSpec, table: pa.Table, *, title: str = "", caption: str = "") -> bytes:
    """PNG sheet of the sequences in ``table`` (as `generator.generate_batch` returns it), one a row.

    The score is the one that the spec's band is given in. A one-dimensional grid becomes one picture with time running
    down. Raises PictureError if the spec's tokens show no frames.
    """
    shown, frames, score_column = _frames_of(spec, table)
    return trajectory_sheet(
        frames[:, None] if frames.ndim == 3 else frames,
        table[score_column].to_numpy(),
        shown.colors,
        title=title,
        caption=caption,
        labels=[f"#{number}" for number in table["sequence_id"].to_pylist()],
        score_name="gzip" if score_column == "score" else "score",
        first_step=getattr(shown, "burn_in", 0),
        stride=getattr(shown, "stride", 1),
    )


def animation_of(spec: GenerationSpec, table: pa.Table, *, format: Literal["gif", "apng"] = "gif") -> bytes:
    """The sequences in ``table``, playing side by side. Raises PictureError unless their grid has 2 or 3 dimensions."""
    shown, frames, score_column = _frames_of(spec, table)
    if frames.ndim == 3:
        raise PictureError(f"family: {spec.family!r} is one-dimensional: its sheet shows all of time; drop --{format}")
    return animation(frames, table[score_column].to_numpy(), shown.colors, format=format)


def _frames_of(spec: GenerationSpec, table: pa.Table) -> tuple[GridSpec, NDArray[np.uint8], str]:
    """The spec of the grid, frames uint8 [n, F, *grid], and the column of the score that the band is given in."""
    shown = spec.frames_of
    if shown is None:
        raise PictureError(f"family: {spec.family!r} has no frames to draw; choose one on a grid, such as 'nca'")
    if not table.num_rows:
        raise PictureError("sequences: 0 leaves nothing to draw; ask for 1 or more")
    frames = np.stack(
        [decode_tokens(spec, np.frombuffer(tokens, dtype=spec.token_dtype)) for tokens in table["tokens"].to_pylist()]
    )
    band = spec.accept_band
    return shown, frames, "score" if band is not None and band.score == "gzip-int32-v1" else "score_normalized"


def trajectory_sheet(
    frames: NDArray[np.uint8],
    scores: Sequence[float] | NDArray[np.floating],
    colors: int,
    *,
    title: str = "",
    caption: str = "",
    labels: Sequence[str] | None = None,
    score_name: str = "score",
    columns: int | None = None,
    first_step: int = 0,
    stride: int = 1,
) -> bytes:
    """PNG of one trajectory a row, frames over time in columns, the score beside each row.

    ``frames`` is uint8 [n, F, H, W], or [n, F, D, H, W] shown as D slices side by side; ``scores`` [n]. Of more than
    ``columns`` frames (default: as many as fit, at most 12) every second, third, … is shown, so that time runs evenly,
    under its step ``first_step + stride·frame``. ``labels`` [n] name the rows, by default #0, #1, …

    Raises PictureError where shapes, scores and colours do not fit together.
    """
    frames = _checked(frames, colors)
    if len(scores) != len(frames):
        raise PictureError(f"scores: {len(scores)} for {len(frames)} trajectories; give one for each")
    names = list(labels) if labels is not None else [f"#{row}" for row in range(len(frames))]
    values = [f"{score_name} {score:.3f}" for score in scores]
    widest = max(_font(15, bold=True).getlength(name) for name in names)
    label_width = int(max(widest, *(_font(13).getlength(value) for value in values))) + 18
    cell = _cell_size(frames)
    height, width = _frame_pixels(frames, cell)
    pitch = max(height, 44) + _GAP
    fitting = max(1, min(12, (_SHEET_WIDTH - 2 * _MARGIN - label_width) // (width + _GAP)))
    shown = range(0, frames.shape[1], -(-frames.shape[1] // (columns or fitting)))

    top = _MARGIN + (34 if title else 0) + (24 if caption else 0) + 26
    left = _MARGIN + label_width
    legend = 44
    needed = int(max(_font(21, bold=True).getlength(title), _font(14).getlength(caption))) + 2 * _MARGIN
    sheet = Image.new(
        "RGB",
        (
            max(
                left + len(shown) * (width + _GAP) - _GAP + _MARGIN,
                needed,
                _MARGIN * 2 + 70 + min(colors, 16) * _SWATCH,
            ),
            top + len(frames) * pitch - _GAP + legend + _MARGIN,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    line = _MARGIN
    if title:
        draw.text((_MARGIN, line - 4), title, fill=_INK, font=_font(21, bold=True))
        line += 34
    if caption:
        draw.text((_MARGIN, line - 4), caption, fill=_FAINT, font=_font(14))
    for column, frame in enumerate(shown):
        centre = left + column * (width + _GAP) + width / 2
        step = f"t = {first_step + stride * frame}"
        draw.text((centre, top - 8), step, fill=_FAINT, font=_font(13), anchor="ms")
    for row, name in enumerate(names):
        y = top + row * pitch
        middle = y + height / 2
        draw.text((_MARGIN, middle - 12), name, fill=_INK, font=_font(15, bold=True), anchor="lm")
        draw.text((_MARGIN, middle + 10), values[row], fill=_FAINT, font=_font(13), anchor="lm")
        for column, frame in enumerate(shown):
            sheet.paste(_frame_image(frames[row, frame], colors, cell), (left + column * (width + _GAP), y))
    _legend(draw, colors, sheet.height - _MARGIN - 14)
    return _png(sheet)


def animation(
    frames: NDArray[np.uint8],
    scores: Sequence[float] | NDArray[np.floating],
    colors: int,
    *,
    format: Literal["gif", "apng"] = "gif",
    columns: int | None = None,
    frame_ms: int = 140,
    hold_ms: int = 900,
) -> bytes:
    """GIF or APNG of all trajectories playing side by side for ever, the score under each; the last frame is held.
    Of more frames than fit MAX_PIXELS, evenly spaced ones are shown.

    ``frames`` is uint8 [n, F, H, W] or [n, F, D, H, W], ``scores`` [n]; ``columns`` trajectories stand in a row.
    Raises PictureError where they do not fit together or the format is another.
    """
    frames = _checked(frames, colors)
    if len(scores) != len(frames):
        raise PictureError(f"scores: {len(scores)} for {len(frames)} trajectories; give one for each")
    if format not in ("gif", "apng"):
        raise PictureError(f"format: {format!r} is unknown; use 'gif' or 'apng'")
    cell = max(2, _cell_size(frames) * 3 // 2)
    height, width = _frame_pixels(frames, cell)
    across = min(len(frames), columns or max(1, min(4, 900 // (width + _GAP))))
    down = -(-len(frames) // across)
    size = (across * (width + _GAP) + _GAP, down * (height + 32) + _GAP)
    pictures = []
    fitting = max(1, MAX_PIXELS // (size[0] * size[1]))
    for frame in range(0, frames.shape[1], -(-frames.shape[1] // fitting)):
        picture = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(picture)
        for tile in range(len(frames)):
            x, y = _GAP + tile % across * (width + _GAP), _GAP + tile // across * (height + 32)
            picture.paste(_frame_image(frames[tile, frame], colors, cell), (x, y))
            draw.text((x + width / 2, y + height + 6), f"{scores[tile]:.3f}", fill=_INK, font=_font(14), anchor="mt")
        pictures.append(picture)
    durations = [frame_ms] * (len(pictures) - 1) + [hold_ms]
    out = io.BytesIO()
    if format == "gif":
        exact = _exact_palette(colors)
        indexed = [picture.quantize(palette=exact, dither=Image.Dither.NONE) for picture in pictures]
        indexed[0].save(out, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, disposal=1)
    else:
        pictures[0].save(out, "PNG", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return out.getvalue()


def _checked(frames: NDArray[np.uint8], colors: int) -> NDArray[np.uint8]:
    palette(colors)
    if frames.ndim not in (4, 5) or not frames.size:
        raise PictureError(f"frames: shape {list(frames.shape)} is neither [n, F, H, W] nor [n, F, D, H, W]")
    if int(frames.max()) >= colors:
        raise PictureError(f"frames: colour {int(frames.max())} is outside 0 to {colors - 1}; give the spec's colours")
    return frames


def _cell_size(frames: NDArray[np.uint8]) -> int:
    aim = _FRAME_SIZE if frames.ndim == 4 else _SLICE_SIZE
    return max(2, aim // max(frames.shape[-2:]))


def _frame_pixels(frames: NDArray[np.uint8], cell: int) -> tuple[int, int]:
    """Height and width of one frame in pixels."""
    height, width = (int(size) * cell for size in frames.shape[-2:])
    slices = frames.shape[2] if frames.ndim == 5 else 1
    return height, slices * (width + _SLICE_GAP) - _SLICE_GAP


def _frame_image(frame: NDArray[np.uint8], colors: int, cell: int) -> Image.Image:
    """One frame, uint8 [H, W] or [D, H, W], each cell a square of ``cell`` pixels."""
    slices = frame[None] if frame.ndim == 2 else frame
    rgb = np.array(palette(colors))[slices].repeat(cell, axis=1).repeat(cell, axis=2)
    gap = np.full((rgb.shape[1], _SLICE_GAP, 3), 255, dtype=np.uint8)
    parts = [part for one in rgb for part in (gap, one)][1:]
    return Image.fromarray(np.concatenate(parts, axis=1))


def _legend(draw: ImageDraw.ImageDraw, colors: int, y: int) -> None:
    draw.text((_MARGIN, y + 7), "colours", fill=_FAINT, font=_font(13), anchor="lm")
    for color, rgb in enumerate(palette(colors)[:16].tolist()):
        x = _MARGIN + 70 + color * _SWATCH
        draw.rectangle((x, y, x + 14, y + 14), fill=tuple(rgb), outline=_LINE)
        draw.text((x + 18, y + 7), str(color), fill=_FAINT, font=_font(12), anchor="lm")


def _exact_palette(colors: int) -> Image.Image:
    """Every cell colour as it is, and greys for the smoothed edges of letters."""
    cells = palette(colors)[:240].tolist()  # a GIF has room for 256: above 240 the nearest stands in
    greys = [[round(ink + (255 - ink) * level / 15) for ink in _INK] for level in range(16)]
    image = Image.new("P", (1, 1))
    image.putpalette([channel for rgb in cells + greys for channel in rgb])
    return image


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # The font comes with matplotlib, so the picture is the same anywhere.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
