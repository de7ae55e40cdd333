"""The report of a trained lattice: one HTML page with its scores, its curves and its pictures, nothing to fetch."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestration.reports.svg import ARMS, FAINT, drawing
from orchestration.reports.templates import report
from trainer.lattice.train_config import LatticeTrainConfig


def lattice_page(
    title: str,
    config: LatticeTrainConfig,
    scores: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    picture: bytes,
) -> str:
    """The page. ``scores`` are a full evaluation's, ``curve`` the run's metric records, ``picture`` a GIF."""
    name = "accuracy" if config.target.kind == "surface" else "overlap"
    tiles = [(f"{scores[name]:.3f}", f"{name} after {scores['steps_run']} steps")]
    tiles += [(f"{scores['without_links']:.3f}", "the same with links between cells cut")]
    if name == "accuracy":
        tiles += [(f"{scores['below']:.3f}", "of cells that the goal cannot have reached (chance: 0.5)")]
        tiles += [(f"{scores['within']:.3f}", "of cells that it can")]
    else:
        tiles += [(f"{value:.3f}", f"after {times} times as many") for times, value in scores["persists"].items()]
        tiles += [(f"{scores['recovers'][-1]:.3f}", f"that long after damage ({scores['damaged']:.3f} right after it)")]
        tiles += [(f"{scores['constant']:.3f}", "the best answer that knows no code")]
    size = "×".join(map(str, config.lattice.size))
    return report(
        "lattice.html",
        title=title,
        verdict=f"{name} {scores[name]:.3f} on a lattice of {size} cells, {config.lattice.types} sets of weights",
        tiles=[("", *tile) for tile in tiles],
        cards=[("", _over_time(name, scores), ""), ("", _losses(curve), "")],
        picture=base64.b64encode(picture).decode(),
    )


def _over_time(name: str, scores: Mapping[str, Any]) -> Markup:
    with drawing(f"{name} by number of steps", name, "steps") as draw:
        values = scores["by_time"]
        draw.axes.plot(range(1, len(values) + 1), values, color=ARMS[0], label="from nothing")
        if "recovers" in scores:
            draw.axes.plot(
                range(1, len(scores["recovers"]) + 1), scores["recovers"], color=ARMS[1], label="after damage"
            )
        for at, words in zip(scores["distance"], ("nearest", "farthest"), strict=True):
            draw.axes.axvline(at, color=FAINT, linestyle=":")
            draw.axes.text(at, 0.02, f" {words} cell reached", color=FAINT, rotation=90, va="bottom", fontsize=8)
        draw.axes.set_ylim(0, 1.02)
        draw.axes.legend()
    return draw.svg


def _losses(curve: Sequence[Mapping[str, Any]]) -> Markup:
    with drawing("training loss by update", "loss", "updates") as draw:
        points = [(row["step"], row["loss"]) for row in curve if "loss" in row]
        draw.axes.semilogy([step for step, _ in points], [loss for _, loss in points], color=ARMS[0])
    return draw.svg
