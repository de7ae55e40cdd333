"""The results as a Markdown page: the machine, then each part with its figures as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.conductor import Outcome, Results


def page(results: Results) -> str:
    """The whole page."""
    machine = results.machine
    lines = [
        "# What the GPU run found" + (" (toy sizes: the figures mean nothing)" if results.toy else ""),
        "",
        f"`python -m benchmarks.gpu --minutes {results.minutes:g}`: {results.seconds:.0f} s, at {machine['commit']}.",
        "",
        f"- GPU: {machine['gpu'] or 'none seen'}",
        f"- host: {machine['processor']}, {machine['cores']} cores, Python {machine['python']}",
        "- packages: " + ", ".join(f"{name} {found or 'missing'}" for name, found in machine["packages"].items()),
    ]
    for part in results.parts:
        lines += ["", f"## {part.name}: {part.status}", "", *_part(part)]
    return "\n".join(lines) + "\n"


def _part(part: Outcome) -> list[str]:
    said = [f"{part.seconds:.0f} of {part.limit_s:.0f} s." + (f" {part.why}" if part.why else "")]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for figure in part.figures:
        groups.setdefault(tuple(figure), []).append(figure)
    for columns, figures in groups.items():
        said += ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        said += [f"| {' | '.join(_shown(figure[name]) for name in columns)} |" for figure in figures]
    return said


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")
