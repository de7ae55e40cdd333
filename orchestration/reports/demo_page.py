"""The report as one self-contained HTML page: inline style and curves, an embedded picture, no script, no link out."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from orchestration.console.foreign import as_json
from orchestration.reports.curves import SMOOTHED, heldout_points, tokens_to_reach, training_points
from orchestration.reports.demo_charts import difference_chart, gate_chart, loss_chart
from orchestration.reports.templates import report, signed


@dataclass(frozen=True)
class ReportPage:
    """All that the page shows; metrics are the trainer's records, pictures a PNG.

    The first arm of ``curves`` is the baseline and the last one the pre-pre-trained, as in ``outcome["arms"]``.
    """

    outcome: dict[str, Any]
    probe_chart: Markup
    spec: dict[str, Any]
    curves: dict[str, list[dict[str, Any]]]
    synthetic_curve: list[dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    pictures: bytes
    lineages: dict[str, dict[str, Any]]


def render(page: ReportPage) -> str:
    """The whole HTML document."""
    outcome = page.outcome
    commands = ["make demo", f"morphogen lineage {outcome['arms'][-1]['model']}"]
    commands += [f"morphogen data verify {each['name']}" for each in outcome["datasets"]]
    return report(
        "demo.html",
        title="Morphogen demo: what does pre-pre-training bring?",
        outcome=outcome,
        probe_chart=page.probe_chart,
        tiles=_tiles(page),
        cards=_cards(page),
        picture=base64.b64encode(page.pictures).decode(),
        lineages=page.lineages.values(),
        settings=_settings(page),
        commands="\n".join(commands),
        versions=", ".join(f"{name} {number}" for name, number in outcome["versions"].items()),
    )


def _tiles(page: ReportPage) -> list[tuple[str, str, str]]:
    """The four numbers that the verdict rests on."""
    baseline, treated = page.outcome["arms"][0], page.outcome["arms"][-1]
    gate = page.outcome["gate"]
    relative = treated["loss_difference"] / baseline["loss"]
    return [
        (
            "held-out loss",
            f"{signed(100 * relative, 2)} %",
            f"{treated['loss']:.4f} against {baseline['loss']:.4f} nats per token",
        ),
        (
            "bits per byte",
            signed(treated["bits_per_byte_difference"], 4),
            f"{treated['bits_per_byte']:.4f} against {baseline['bits_per_byte']:.4f}",
        ),
        ("text tokens to the baseline’s final loss", *_speed_up(page)),
        (
            "synthetic task",
            "learned" if gate["passed"] else "not learned",
            f"loss {gate['loss']:.3f}, gate at {gate['entropy']:.3f} nats",
        ),
    ]


def _speed_up(page: ReportPage) -> tuple[str, str]:
    """Tokens to the baseline's final held-out loss: the value and the note of its tile."""
    first, *_, last = page.curves
    baseline, treated = heldout_points(page.curves[first]), heldout_points(page.curves[last])
    if not baseline:
        return "unknown", "the baseline was never evaluated on the way"
    budget, level = baseline[-1]
    reached = tokens_to_reach(treated, level)
    if reached is None:
        return "never", f"within the {budget / 1e6:.2f} M that both arms had"
    charged = reached + training_points(page.synthetic_curve)[-1][0]
    return (
        f"{reached / 1e6:.2f} M",
        f"of {budget / 1e6:.2f} M: {budget / reached:.2f}×, with pre-pre-training charged {budget / charged:.2f}×",
    )


def _cards(page: ReportPage) -> list[tuple[str, Markup, str | Markup]]:
    """Title, figure and note of each curve."""
    gate = page.outcome["gate"]
    return [
        (
            "Text: loss of both arms",
            loss_chart(page.curves),
            f"Marked: held out. Faint: training, mean of {SMOOTHED} log entries.",
        ),
        (
            "Text: difference from scratch",
            difference_chart(page.curves),
            "Held-out loss less the baseline’s at the same tokens; below zero is better.",
        ),
        (
            "Pre-pre-training and its gate",
            gate_chart(page.synthetic_curve, gate["entropy"]),
            Markup(
                "Held-out synthetic loss ends at {:.3f} nats. A model that had only learned which tokens a sequence "
                "uses often would pay their mean entropy, {:.3f}: the gate is <strong>{}</strong>."
            ).format(gate["loss"], gate["entropy"], "passed" if gate["passed"] else "not passed"),
        ),
    ]


def _settings(page: ReportPage) -> list[tuple[str, str]]:
    """Title and JSON of the parameter set and of every configuration."""
    params = page.outcome["params"]
    found = {f"{params['name']}, digest {params['digest']}": page.spec}
    found |= {f"training configuration: {name}": config for name, config in page.configs.items()}
    return [(name, as_json(value, indent=2)) for name, value in found.items()]
