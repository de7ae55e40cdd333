"""Lineage as a graph: the model at the top, below it its run, its data, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from orchestration.console.foreign import in_html, shown

_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _PAD = 156, 50, 12, 40, 6  # two boxes fit side by side on a phone
_EM = 13.0  # font size of a name in a box
# Widths in em of the bold sans-serif letters that names are made of, wide enough for the widest of the usual fonts.
_WIDTHS = {**dict.fromkeys("MWmw@%…", 1.05), **dict.fromkeys("filjrtI.-", 0.46)}
_CAPITAL, _OTHER = 0.86, 0.74


@dataclass(frozen=True)
class Node:
    """Something with a page of its own (``href``), or without (None)."""

    kind: str
    name: str
    href: str | None
    retired: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes, and edges as pairs of places: from what was made to what it was made from."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]


def lineage_graph(tree: dict[str, Any]) -> Graph:
    """The graph behind a lineage tree; what appears twice in the tree is one node."""
    places: dict[Node, int] = {}
    edges: dict[tuple[int, int], None] = {}

    def node(kind: str, name: str, href: str | None, part: dict[str, Any]) -> int:
        return places.setdefault(Node(kind, name, href, part.get("retired", False)), len(places))

    def reference(kind: str, folder: str, part: dict[str, Any]) -> int:
        name, _, version = part["ref"].partition("@")
        return node(kind, part["ref"], f"/{folder}/{name}/{version}", part)

    def visit(part: dict[str, Any]) -> int:
        model = reference("model", "models", part["model"])
        name = part["run"]["name"]
        run = node("run", name, None if part["run"].get("missing") else f"/runs/{name}", part["run"])
        edges[model, run] = None
        made_by: set[str] = set()
        for dataset in part["datasets"]:
            data = reference("dataset", "datasets", dataset)
            edges[run, data] = None
            if dataset["params"]:
                made_by.add(dataset["params"]["ref"])
                edges[data, reference("parameters", "params", dataset["params"])] = None
        for params in part["params"]:
            if params["ref"] not in made_by:
                edges[run, reference("parameters", "params", params)] = None
        for parent in part["parents"]:
            edges[run, visit(parent)] = None
        return model

    visit(tree)
    return Graph(tuple(places), tuple(edges))


def draw_graph(graph: Graph, title: str, root: str = "") -> Markup:
    """The graph as SVG of its natural size, rows by the longest way from the top; boxes are links below ``root``."""
    depth = [0] * len(graph.nodes)
    for _ in graph.nodes:  # longest path: as many rounds as there can be rows
        for above, below in graph.edges:
            depth[below] = max(depth[below], depth[above] + 1)
    rows: dict[int, list[int]] = {}
    for place, row in enumerate(depth):
        rows.setdefault(row, []).append(place)
    widest = max(len(row) for row in rows.values())
    width = widest * (_BOX_W + _GAP_X) - _GAP_X + 2 * _PAD
    height = len(rows) * (_BOX_H + _GAP_Y) - _GAP_Y + 2 * _PAD
    at: dict[int, tuple[float, float]] = {}
    for row, members in rows.items():
        left = (width - (len(members) * (_BOX_W + _GAP_X) - _GAP_X)) / 2
        for column, place in enumerate(members):
            at[place] = (left + column * (_BOX_W + _GAP_X), _PAD + row * (_BOX_H + _GAP_Y))
    lines = []
    for above, below in graph.edges:
        x1, y1 = at[above][0] + _BOX_W / 2, at[above][1] + _BOX_H
        x2, y2 = at[below][0] + _BOX_W / 2, at[below][1]
        bend = (y2 - y1) / 2
        curve = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2 - 2:.0f}"
        lines.append(f'<path class="edge" marker-end="url(#tip)" d="{curve}"/>')
    boxes = "".join(_box(node, root, *at[place]) for place, node in enumerate(graph.nodes))
    return Markup(
        f'<svg class="graph" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="group" aria-label="{in_html(title)}"><title>{in_html(title)}</title>'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>{"".join(lines)}{boxes}</svg>'
    )


def fitted(name: str, version: str, room: float) -> str:
    """``name`` and ``version`` (``@12`` or nothing), the name's end left out where they are wider than ``room``
    pixels: what tells versions apart stays."""
    if _width(name + version) <= room:
        return name + version
    if _width(f"…{version}") > 0.8 * room:  # a long alias: it is cut itself
        version = _cut(version, room / 2)
    return _cut(name, room - _width(version)) + version


def _cut(text: str, room: float) -> str:
    kept = next((end for end in range(len(text), 0, -1) if _width(text[:end] + "…") <= room), 0)
    return text if _width(text) <= room else text[:kept] + "…"


def _width(text: str) -> float:
    """Pixels that ``text`` takes at most."""
    widths = (_WIDTHS.get(letter, _CAPITAL if letter.isupper() else _OTHER) for letter in text)
    return _EM * sum(widths)


def words(graph: Graph) -> list[str]:
    """The edges as sentences, for whoever cannot see the graph."""
    return [
        f"{graph.nodes[above].kind} {graph.nodes[above].name} comes from {graph.nodes[below].kind} "
        f"{graph.nodes[below].name}"
        for above, below in graph.edges
    ]


def _box(node: Node, root: str, x: float, y: float) -> str:
    name, at, version = node.name.partition("@")
    fit = fitted(shown(name), shown(at + version), _BOX_W - 18)
    body = (
        f'<rect class="box {node.kind}" x="{x:.0f}" y="{y:.0f}" width="{_BOX_W}" height="{_BOX_H}" rx="8"/>'
        f'<text class="kind" x="{x + 9:.0f}" y="{y + 19:.0f}">{node.kind}{", retired" if node.retired else ""}</text>'
        f'<text class="name" x="{x + 9:.0f}" y="{y + 38:.0f}">{in_html(fit)}</text>'
    )
    if node.href is None:
        return f"<g><title>{in_html(node.name)}: its log is gone</title>{body}</g>"
    label = in_html(f"{node.kind} {node.name}{', retired' if node.retired else ''}")
    href = in_html(root + quote(node.href, errors="replace"))
    return f'<a href="{href}" aria-label="{label}"><title>{label}</title>{body}</a>'
