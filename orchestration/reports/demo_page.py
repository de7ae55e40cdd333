"""The report as one self-contained HTML page: inline style and curves, an embedded picture, no script, no link out."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from orchestration.console.foreign import as_json, in_html, in_html_lines
from orchestration.reports.curves import SMOOTHED, heldout_points, tokens_to_reach, training_points
from orchestration.reports.demo_charts import difference_chart, gate_chart, loss_chart
from orchestration.reports.style import STYLE


@dataclass(frozen=True)
class ReportPage:
    """All that the page shows; metrics are the trainer's records, pictures a PNG.

    The first arm of ``curves`` is the baseline and the last one the pre-pre-trained, as in ``outcome["arms"]``.
    """

    outcome: dict[str, Any]
    spec: dict[str, Any]
    curves: dict[str, list[dict[str, Any]]]
    synthetic_curve: list[dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    pictures: bytes
    lineages: dict[str, dict[str, Any]]


def render(page: ReportPage) -> str:
    """The whole HTML document."""
    outcome = page.outcome
    title = "Morphogen demo: does pre-pre-training help?"
    sections = [
        f"<p class=verdict>{in_html(outcome['verdict'])}</p>",
        _tiles(page),
        _section("Held-out text", _arm_table(outcome["arms"])),
        _section("Over the training", _curves(page)),
        _section("Some accepted trajectories", _pictures(page)),
        _section("Lineage", f"<ul class=tree>{''.join(map(_lineage, page.lineages.values()))}</ul>"),
        _section("Datasets", _datasets(outcome)),
        _section("Parameters and configurations", _settings(page)),
        _section("To reproduce", _reproduce(outcome)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{in_html(title)}</h2>{body}</section>"


def _tiles(page: ReportPage) -> str:
    """The four numbers that the verdict rests on."""
    baseline, treated = page.outcome["arms"][0], page.outcome["arms"][-1]
    gate = page.outcome["gate"]
    relative = treated["loss_difference"] / baseline["loss"]
    tiles = [
        (
            "held-out loss",
            f"{_signed(100 * relative, 2)} %",
            f"{treated['loss']:.4f} against {baseline['loss']:.4f} nats per token",
        ),
        (
            "bits per byte",
            _signed(treated["bits_per_byte_difference"], 4),
            f"{treated['bits_per_byte']:.4f} against {baseline['bits_per_byte']:.4f}",
        ),
        ("text tokens to the baseline’s final loss", *_speed_up(page)),
        (
            "synthetic task",
            "learned" if gate["passed"] else "not learned",
            f"loss {gate['loss']:.3f}, gate at {gate['entropy']:.3f} nats",
        ),
    ]
    cells = (f"<div><span>{name}</span><b>{value}</b><span>{note}</span></div>" for name, value, note in tiles)
    return f"<div class=tiles>{''.join(cells)}</div>"


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


def _arm_table(rows: list[dict[str, Any]]) -> str:
    head = "".join(
        f"<th class=n>{name}</th>"
        for name in ("loss", "difference", "perplexity", "bits per byte", "difference", "text tokens", "parameters")
    )
    body = "".join(
        f"<tr><td><i class=dot style='background:var(--arm{min(index, 2)})'></i>{in_html(row['arm'])}</td>"
        f"<td><code>{in_html(row['model'])}</code></td>"
        f"<td class=n>{row['loss']:.4f}</td><td class=n>{_difference(index, row['loss_difference'])}</td>"
        f"<td class=n>{row['perplexity']:.3f}</td><td class=n>{row['bits_per_byte']:.4f}</td>"
        f"<td class=n>{_difference(index, row['bits_per_byte_difference'])}</td>"
        f"<td class=n>{row['tokens']:,}</td><td class=n>{row['parameters']:,}</td></tr>"
        for index, row in enumerate(rows)
    )
    return (
        f"<div class='card scroll'><table><thead><tr><th>arm</th><th>model</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        "<p class=note>Loss is in nats per token; differences are from the first arm, below zero is better. Both arms "
        "see the same rows in the same order, with the same schedule, budget and initial weights but for what was "
        "carried over. One seed: a rerun with another one moves both numbers.</p>"
    )


def _difference(index: int, value: float) -> str:
    return _signed(value, 4) if index else "–"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _curves(page: ReportPage) -> str:
    gate = page.outcome["gate"]
    cards = {
        "Text: loss of both arms": (
            loss_chart(page.curves),
            f"Marked: held out. Faint: training, mean of {SMOOTHED} log entries.",
        ),
        "Text: difference from scratch": (
            difference_chart(page.curves),
            "Held-out loss less the baseline’s at the same tokens; below zero is better.",
        ),
        "Pre-pre-training and its gate": (
            gate_chart(page.synthetic_curve, gate["entropy"]),
            f"Held-out synthetic loss ends at {gate['loss']:.3f} nats. A model that had only learned which tokens a "
            f"sequence uses often would pay their mean entropy, {gate['entropy']:.3f}: the gate is "
            f"<strong>{'passed' if gate['passed'] else 'not passed'}</strong>.",
        ),
    }
    shown = (
        f"<div><h3>{name}</h3><div>{chart}<p class=note>{note}</p></div></div>" for name, (chart, note) in cards.items()
    )
    return f"<div class=curves>{''.join(shown)}</div>"


def _pictures(page: ReportPage) -> str:
    picture = base64.b64encode(page.pictures).decode()
    return (
        '<div class="sheet scroll"><img alt="Accepted automata: one trajectory a row, time to the right, the score '
        f'beside each" src="data:image/png;base64,{picture}"></div>'
        f"<p class=note>The first sequences of {in_html(page.outcome['datasets'][0]['name'])}: one rule a row, time to "
        "the right.</p>"
    )


def _lineage(tree: dict[str, Any]) -> str:
    """A model with its run, data and parameters, and below it the models that it started from."""
    items = [f"<li>{_kind('run')}<code>{in_html(tree['run']['name'])}</code></li>"]
    for dataset in tree["datasets"]:
        made_by = f"<ul><li>{_named('parameters', dataset['params'])}</li></ul>" if dataset["params"] else ""
        spec = f" <span class=note>spec</span> {_short(dataset['spec_digest'])}"
        items.append(f"<li>{_named('dataset', dataset)}{spec}{made_by}</li>")
    items += [_lineage(parent) for parent in tree["parents"]]
    return f"<li>{_named('model', tree['model'])}<ul>{''.join(items)}</ul></li>"


def _named(kind: str, thing: dict[str, Any]) -> str:
    return f"{_kind(kind)}<strong>{in_html(thing['ref'])}</strong> {_short(thing['digest'])}"


def _kind(kind: str) -> str:
    return f"<span class='kind {kind}'>{kind}</span>"


def _short(digest: str) -> str:
    return f"<code title='{in_html(digest)}'>{in_html(digest[:12])}</code>"


def _datasets(outcome: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{in_html(each['name'])}</td><td class=n>{each['tokens']:,}</td>"
        f"<td class=digest><code>{in_html(each['digest'])}</code></td></tr>"
        for each in outcome["datasets"]
    )
    head = "<tr><th>dataset</th><th class=n>tokens</th><th>digest</th></tr>"
    return f"<div class='card scroll'><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _settings(page: ReportPage) -> str:
    params = page.outcome["params"]
    shown = {f"{params['name']}, digest {params['digest']}": page.spec}
    shown |= {f"training configuration: {name}": config for name, config in page.configs.items()}
    return "".join(
        f"<details><summary class=digest>{in_html(name)}</summary><pre>{in_html_lines(as_json(value, indent=2))}</pre>"
        "</details>"
        for name, value in shown.items()
    )


def _reproduce(outcome: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in outcome["versions"].items())
    commands = ["make demo", f"morphogen lineage {outcome['arms'][-1]['model']}"]
    commands += [f"morphogen data verify {each['name']}" for each in outcome["datasets"]]
    return (
        f"<pre>{in_html_lines(chr(10).join(commands))}</pre>"
        f"<p class=note>Lake <code>{in_html(outcome['lake'])}</code>. Made on {in_html(outcome['machine'])}; "
        f"{in_html(versions)}; this invocation took {outcome['seconds']:.0f} s.</p>"
    )
