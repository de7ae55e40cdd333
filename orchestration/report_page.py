"""The report as one self-contained HTML page: inline style and curves, an embedded picture, no script, no link out."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure

# Okabe and Ito's palette, which eyes with any colour vision tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


@dataclass(frozen=True)
class ReportPage:
    """All that the page shows; metrics are the trainer's records, pictures a PNG."""

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
    gate = outcome["gate"]
    gate_word = "passed" if gate["passed"] else "not passed"
    picture = base64.b64encode(page.pictures).decode()
    sections = [
        f"<p class=verdict>{escape(outcome['verdict'])}</p>",
        _arm_table(outcome["arms"]),
        _section("Text: loss of both arms", _figure(_text_curves(page.curves), "Training and held-out loss")),
        _section(
            "Pre-pre-training and its gate",
            f"<p>Held-out synthetic loss {gate['loss']:.3f} nats; the mean entropy of a sequence's own token "
            f"frequencies is {gate['entropy']:.3f}. A model that had only learned which tokens are frequent would pay "
            f"the latter, so the gate is <strong>{gate_word}</strong>.</p>"
            + _figure(
                _synthetic_curve(page.synthetic_curve, gate["entropy"]), "Synthetic loss over tokens and the gate"
            ),
        ),
        _section(
            "Some accepted trajectories",
            f'<img alt="Accepted automata: one trajectory a row, time to the right, the score beside each" '
            f'src="data:image/png;base64,{picture}">',
        ),
        _section("Lineage", "".join(_lineage(tree) for tree in page.lineages.values())),
        _section("Datasets", _datasets(outcome)),
        _section("Parameters", f"<pre>{escape(json.dumps(page.spec, indent=2))}</pre>"),
        _section("Configurations", _configs(page.configs)),
        _section("To reproduce", _reproduce(outcome)),
    ]
    title = "Morphogen demo: does pre-pre-training help?"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{''.join(sections)}</main></body></html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { font-size: 1.2rem; border-left: .3rem solid #0072B2; padding: .5rem 1rem; background: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; background: #fff; border-radius: .4rem; } figure svg, img { max-width: 100%; height: auto; }
pre, code { font-size: .85rem; overflow-wrap: anywhere; white-space: pre-wrap; }
details { margin: .3rem 0; } summary { cursor: pointer; }
"""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _arm_table(rows: list[dict[str, Any]]) -> str:
    head = "".join(
        f"<th class=n>{name}</th>"
        for name in ("held-out loss", "perplexity", "bits per byte", "difference", "text tokens", "parameters")
    )
    body = "".join(
        f"<tr><td>{escape(row['arm'])}</td><td><code>{escape(row['model'])}</code></td>"
        f"<td class=n>{row['loss']:.4f}</td><td class=n>{row['perplexity']:.3f}</td>"
        f"<td class=n>{row['bits_per_byte']:.4f}</td><td class=n>{row['bits_per_byte_difference']:+.4f}</td>"
        f"<td class=n>{row['tokens']:,}</td><td class=n>{row['parameters']:,}</td></tr>"
        for row in rows
    )
    return (
        f"<div class=scroll><table><thead><tr><th>arm</th><th>model</th>{head}</tr></thead><tbody>{body}</tbody>"
        "</table></div><p>Loss is in nats per token; the difference is in bits per byte against the first arm. Both "
        "arms see the same rows in the same order, with the same schedule, budget and initial weights but for what was "
        "carried over.</p>"
    )


def _figure(figure: Figure, alt: str) -> str:
    buffer = io.StringIO()
    # No date and a fixed salt: the same run makes the same page.
    with matplotlib.rc_context({"svg.hashsalt": "morphogen", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    return f"<figure>{svg}</figure>"


def _axes(ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    axes.set_xlabel("tokens (millions)")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _split(records: list[dict[str, Any]]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Training points and held-out points as (tokens in millions, loss in nats)."""
    train = [(record["tokens"] / 1e6, record["loss"]) for record in records if "loss" in record]
    if not train:
        return [], []
    per_step = next(record["tokens"] / record["step"] for record in records if "loss" in record) / 1e6
    held_out = [
        (record["step"] * per_step, scores["loss"])
        for record in records
        if "eval" in record
        for scores in record["eval"].values()
    ]
    return train, held_out


def _text_curves(curves: dict[str, list[dict[str, Any]]]) -> Figure:
    figure, axes = _axes("loss (nats per token)")
    for (name, records), color in zip(curves.items(), (GREY, BLUE, ORANGE), strict=False):
        train, held_out = _split(records)
        axes.plot(*zip(*train, strict=True), color=color, alpha=0.35, linewidth=1)
        axes.plot(*zip(*held_out, strict=True), color=color, marker="o", markersize=4, label=f"{name}, held out")
    axes.legend(frameon=False)
    return figure


def _synthetic_curve(records: list[dict[str, Any]], entropy: float) -> Figure:
    figure, axes = _axes("loss (nats per token)")
    train, held_out = _split(records)
    axes.plot(*zip(*train, strict=True), color=BLUE, alpha=0.35, linewidth=1, label="training")
    axes.plot(*zip(*held_out, strict=True), color=BLUE, marker="o", markersize=4, label="held out")
    axes.axhline(entropy, color=ORANGE, linestyle="--", label="unigram entropy (the gate)")
    axes.legend(frameon=False)
    return figure


def _lineage(tree: dict[str, Any]) -> str:
    """A model with its run, data and parameters, and below it the models that it started from."""
    model, run = tree["model"], tree["run"]
    items = [f"run <code>{escape(run['name'])}</code>"]
    for dataset in tree["datasets"]:
        made_by = ""
        if dataset["params"]:
            made_by = f"<ul><li>parameters {_named(dataset['params'])}</li></ul>"
        items.append(f"dataset {_named(dataset)}, spec <code>{dataset['spec_digest'][:12]}</code>{made_by}")
    items += [f"started from {_lineage(parent)}" for parent in tree["parents"]]
    return f"<p>model {_named(model)}</p><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _named(thing: dict[str, Any]) -> str:
    return f"<strong>{escape(thing['ref'])}</strong> <code>{escape(thing['digest'][:12])}</code>"


def _datasets(outcome: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each['name'])}</td><td class=n>{each['tokens']:,}</td>"
        f"<td><code>{escape(each['digest'])}</code></td></tr>"
        for each in outcome["datasets"]
    )
    head = "<tr><th>dataset</th><th class=n>tokens</th><th>digest</th></tr>"
    return f"<div class=scroll><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _configs(configs: dict[str, dict[str, Any]]) -> str:
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(json.dumps(config, indent=2))}</pre></details>"
        for name, config in configs.items()
    )


def _reproduce(outcome: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in outcome["versions"].items())
    commands = ["make demo", f"morphogen lineage {outcome['arms'][-1]['model']}"]
    commands += [f"morphogen data verify {each['name']}" for each in outcome["datasets"]]
    return (
        f"<pre>{escape(chr(10).join(commands))}</pre><p>Lake <code>{escape(outcome['lake'])}</code>. Made on "
        f"{escape(outcome['machine'])}; {escape(versions)}; this invocation took {outcome['seconds']:.0f} s.</p>"
    )
