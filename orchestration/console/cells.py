"""Frames of cellular automata on a terminal: coloured half blocks, grey levels without colour, digits in a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Text

from orchestration.console.output import SafeConsole

GAP = 2  # columns between two frames
_SHADES = " ░▒▓█"
_LETTERS = " .:-=+*#%@"  # ten levels of ink, for more colours than there are shades


def draw_frames(frames_FHW: NDArray[np.uint8], palette: NDArray[np.uint8], console: SafeConsole) -> list[Text]:
    """Lines that show frames uint8 [F, H, W] side by side, as many as the console is wide for, then those below.

    ``palette`` is uint8 RGB [colors, 3]. With colour a character is two cells, one above the other; without it a cell
    is two characters of one grey level. Where the console is no terminal a cell is its number in hexadecimal.
    """
    if not console.is_terminal:
        return digits(frames_FHW, len(palette))
    # Sixteen colours are the terminal's own: several of the palette's would become one.
    coloured = console.color_system not in (None, "standard") and not console.no_color
    width = frames_FHW.shape[2] * (1 if coloured else 2) + GAP
    per_row = max(1, (console.width + GAP) // width)
    lines: list[Text] = []
    for first in range(0, len(frames_FHW), per_row):
        row = frames_FHW[first : first + per_row]
        lines += [Text()] if first else []
        lines += _half_blocks(row, palette) if coloured else _greys(row, len(palette))
    return lines


def digits(frames_FHW: NDArray[np.uint8], colors: int) -> list[Text]:
    """The cells as hexadecimal numbers of as many digits as ``colors`` need, frames side by side."""
    places = len(f"{colors - 1:x}")
    return [
        Text((" " * GAP).join("".join(f"{cell:0{places}x}" for cell in row_W) for row_W in row_FW))
        for row_FW in frames_FHW.swapaxes(0, 1)
    ]


def _half_blocks(frames_FHW: NDArray[np.uint8], palette: NDArray[np.uint8]) -> list[Text]:
    names = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette]
    height = frames_FHW.shape[1]
    lines = []
    for top in range(0, height, 2):
        line = Text()
        for place, frame_HW in enumerate(frames_FHW):
            line.append(" " * GAP if place else "")
            for column, cell in enumerate(frame_HW[top]):
                below = names[frame_HW[top + 1][column]] if top + 1 < height else None
                line.append("▀", Style(color=names[cell], bgcolor=below))
        lines.append(line)
    return lines


def _greys(frames_FHW: NDArray[np.uint8], colors: int) -> list[Text]:
    levels = _SHADES if colors <= len(_SHADES) else _LETTERS
    # Fewer colours than levels are spread over all of them, more share the darkest to the lightest evenly.
    level_of = [levels[round(color * (len(levels) - 1) / max(colors - 1, 1))] for color in range(colors)]
    return [
        Text((" " * GAP).join("".join(2 * level_of[cell] for cell in row_W) for row_W in row_FW))
        for row_FW in frames_FHW.swapaxes(0, 1)
    ]
