"""Figures as inline SVG that takes its colours from the page, so that it is legible in light and dark.

They are drawn narrow with large letters: on a phone they keep their size, on a wide screen two stand side by side. No
element has a style of its own, which the policy of a served page would not let through.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text

from orchestration.console.foreign import shown, shown_lines

# Each colour is drawn as a placeholder that the finished SVG swaps for a variable of the page's style sheet.
INK, FAINT, LINE, GATE = "#010101", "#020202", "#030303", "#040404"
ARMS = ("#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b", "#0c0c0c")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
LINES = ("-", "--", ":", "-.")
_VARIABLES = {INK: "ink", FAINT: "faint", LINE: "line", GATE: "gate", **{arm: f"arm{i}" for i, arm in enumerate(ARMS)}}

# Any: matplotlib's own type lists every setting's name.
_RC: Any = {
    "font.size": 11,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a label is a dollar
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "grid.color": LINE,
    "grid.alpha": 0.6,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}


# Matplotlib's settings are the process's, and a server draws in many threads.
_SETTINGS = threading.RLock()


class Drawing:
    """One figure with one pair of axes, and after the ``with`` block of ``drawing`` its markup in ``svg``."""

    def __init__(self, xlabel: str, ylabel: str, height: float) -> None:
        self.figure = Figure(figsize=(5.2, height), layout="constrained")
        self.axes: Any = self.figure.subplots()
        self.axes.set_xlabel(xlabel)
        self.axes.set_ylabel(ylabel)
        self.axes.tick_params(length=0)
        self.axes.set_axisbelow(True)
        self.svg = Markup()

    def over_tokens(self, points: Sequence[tuple[float, float]], **style: Any) -> None:
        """A line of (tokens, value), drawn over millions of tokens."""
        self.axes.plot([tokens / 1e6 for tokens, _ in points], [value for _, value in points], **style)


@contextmanager
def drawing(alt: str, ylabel: str, xlabel: str = "tokens, millions", height: float = 3.4) -> Iterator[Drawing]:
    """Draw inside the block; ``alt`` says in words what the figure shows."""
    with _SETTINGS, matplotlib.rc_context(_RC):
        draw = Drawing(xlabel, ylabel, height)
        yield draw
        draw.svg = _markup(draw.figure, alt)


def _markup(figure: Figure, alt: str) -> Markup:
    for text in figure.findobj(Text):
        assert isinstance(text, Text), "it was looked for by its type"
        text.set_text("\n".join(shown_lines(text.get_text())))
    buffer = io.StringIO()
    # No date and no creator, and names inside the SVG salted with what it shows: the same run makes the same page, and
    # no two curves on it share a name.
    with matplotlib.rc_context({"svg.hashsalt": shown(alt)}):
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), transparent=True
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for sheet in [child for child in parent if child.tag.endswith("}style")]:
            parent.remove(sheet)
    for element in root.iter():
        element.tag = _local(element.tag)
        values = {_local(name): value for name, value in element.attrib.items()}
        values |= _properties(values.pop("style", ""))
        element.attrib.clear()
        element.attrib.update({name: _colour(value) for name, value in values.items()})
    # Matplotlib names every group; on a page with several figures only what is referred to may keep its name. A name
    # that we gave (a "gid") becomes a class.
    used = set(
        re.findall(r"#([\w-]+)", " ".join(value for element in root.iter() for value in element.attrib.values()))
    )
    for element in root.iter():
        if "id" in element.attrib and element.attrib["id"] not in used:
            name = element.attrib.pop("id")
            if not re.search(r"_\d+$", name):
                element.attrib["class"] = name
    root.attrib |= {"role": "img", "aria-label": shown(alt), "stroke-linejoin": "round", "stroke-linecap": "butt"}
    return Markup(f"<figure>{ElementTree.tostring(root, encoding='unicode')}</figure>")


def as_file(figure: Markup) -> str:
    """An SVG document of its own, in the colours that a page has in the light."""
    root = ElementTree.fromstring(figure)[0]
    colours = _light_colours()
    for element in root.iter():
        for name, value in element.attrib.items():
            element.attrib[name] = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], value)
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "style": "background: #fff"}
    return ElementTree.tostring(root, encoding="unicode") + "\n"


@cache
def _light_colours() -> dict[str, str]:
    """The first rule of the pages' style sheet."""
    sheet = (Path(__file__).parent / "templates/style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): (#[0-9a-f]+)", sheet.partition("}")[0]))


def _local(name: str) -> str:
    """A name of XML without its namespace: in HTML, SVG's are known."""
    return name.rpartition("}")[2]


def _properties(style: str) -> dict[str, str]:
    """The declarations of a style as SVG's attributes of the same names; ``font`` has none, but its parts have."""
    found = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    if (font := re.fullmatch(r"([0-9.]+px) (.+)", found.pop("font", ""))) is not None:
        found |= {"font-size": font[1], "font-family": font[2]}
    return found


def _colour(value: str) -> str:
    return f"var(--{_VARIABLES[value]})" if value in _VARIABLES else value
