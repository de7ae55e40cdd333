"""The report of an experiment as one self-contained HTML page: inline style and figures, no script, no link out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from orchestration.console.foreign import in_html, in_html_lines
from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.analysis.compare import Comparison
from orchestration.experiment.analysis.pairs import seeds_of, short_labels
from orchestration.experiment.report.charts import forest_chart, in_context_chart, panels
from orchestration.experiment.report.markup import details, note, section, table
from orchestration.experiment.report.tables import (
    Names,
    Rows,
    arm_table,
    comparison_table,
    effect_table,
    reach_table,
    run_table,
    sweep_table,
)
from orchestration.experiment.result import ExperimentResult
from orchestration.reports.style import STYLE

OWN_STYLE = """
.alarm { border: 2px solid var(--arm0); border-radius: .6rem; padding: .2rem 1rem .6rem; margin: 1rem 0;
  overflow-wrap: anywhere; }
.alarm b { color: var(--arm0); } .alarm ul { padding-left: 1.2rem; margin: .3rem 0; } .alarm li { margin: .3rem 0; }
.verdict { overflow-wrap: break-word; font-size: clamp(1.15rem, 3vw, 1.45rem); }
.curves > div:last-child { grid-column: auto; } .curves > div:last-child > div { display: block; }
.card { padding: .4rem 1rem; } .card + .note { margin-top: .5rem; } .card + .card { margin-top: .9rem; }
.wide { max-width: 40rem; }
td { vertical-align: top; white-space: nowrap; } tr:last-child td { border-bottom: 0; }
td.why { white-space: normal; min-width: 18rem; }
.better { color: var(--arm1); font-weight: 650; } .worse { color: var(--arm0); font-weight: 650; }
.lost { color: var(--faint); font-style: italic; }
"""

SAID = {
    "refused": "Not compared: these arms differ from the others in more than their factors, or their records do not "
    "hold together. Their comparisons show no numbers.",
    "incomplete": "No verdict: a run failed or is missing, so its comparison is without a pair.",
    "void": "No claim: the synthetic task was not learned, so the arm says nothing about learning it.",
}


def render(result: ExperimentResult, analysis: Analysis) -> str:
    """The whole HTML document."""
    names = short_labels(result)
    title = f"Morphogen experiment: {result.name}"
    sections = [
        f"<p class=verdict>{in_html(analysis.verdict)}</p>",
        note(f"The question: {in_html(question)}") if (question := str(result.experiment.get("question", ""))) else "",
        _alarms(analysis),
        _tiles(result, analysis),
        _against(result, analysis, names),
        _controls(analysis, names),
        _curves(result, analysis, names),
        _reaches(analysis, names),
        _effects(analysis),
        _in_context(result, analysis, names),
        section("Arms and what they cost", _table(arm_table(analysis, names), words=2)),
        section("Every run", _table(run_table(result, names), words=4)),
        section("Learning rates tried", _table(sweep_table(result, names), words=2)),
        _warnings(analysis),
        section("Configurations", *_configurations(result)),
        section("To reproduce", _reproduce(result)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{in_html(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{OWN_STYLE}</style></head>'
        f"<body><main><h1>{in_html(title)}</h1>{''.join(sections)}</main></body></html>\n"
    )


def _alarms(analysis: Analysis) -> str:
    boxes = []
    for effect in ("refused", "incomplete", "void"):
        found = [str(problem) for problem in analysis.problems if problem.effect == effect]
        if found:
            items = "".join(f"<li>{in_html(each)}</li>" for each in found)
            boxes.append(f"<div class=alarm><p><b>{SAID[effect]}</b></p><ul>{items}</ul></div>")
    return "".join(boxes)


def _tiles(result: ExperimentResult, analysis: Analysis) -> str:
    done = sum(arm.status == "finished" for arm in result.arms)
    gated = [arm for arm in result.arms if arm.gated and arm.status == "finished"]
    learned = sum(arm.gate is not None and arm.gate.loss < arm.gate.unigram_entropy for arm in gated)
    decided = [each for each in analysis.comparisons if each.family == "baseline"]
    tiles = [
        ("runs finished", f"{done} of {len(result.arms)}", "failed and missing ones are shown below"),
        (
            "paired seeds",
            str(len(seeds_of(result))),
            f"{len(decided)} comparisons share an error rate of {result.alpha:g}",
        ),
        ("synthetic task learned", f"{learned} of {len(gated)}", "runs that are claimed to learn it"),
        ("smallest effect that can be found", *_stated(result, analysis)),
    ]
    cells = (
        f"<div><span>{in_html(name)}</span><b>{in_html(value)}</b><span>{in_html(text)}</span></div>"
        for name, value, text in tiles
    )
    return f"<div class=tiles>{''.join(cells)}</div>"


def _stated(result: ExperimentResult, analysis: Analysis) -> tuple[str, str]:
    stated, seen = result.minimum_detectable_effect, analysis.observed
    after = f"; as it turned out, SD {seen.sd:.2g} and so {seen.effect:.4f}" if seen else ""
    if stated is None:
        return "not stated", f"nothing was said before the runs{after}"
    return (
        f"{stated.effect:.4f} nats",
        f"stated before the runs: power {stated.power:g}, paired differences of SD {stated.sd:g} "
        f"({stated.source}){after}",
    )


def _table(rows: Rows, words: int) -> str:
    head, body = rows
    shown = [[_cell(cell) for cell in row] for row in body]
    return table([in_html(name) for name in head], shown, words) if body else ""


def _cell(text: str) -> str:
    kind = (
        text
        if text in ("better", "worse")
        else "lost"
        if text.startswith(("refused", "void", "incomplete", "failed", "missing"))
        else ""
    )
    return f"<span class={kind}>{in_html(text)}</span>" if kind else in_html(text)


def _family(analysis: Analysis, family: str) -> Sequence[Comparison]:
    return [each for each in analysis.comparisons if each.family == family]


def _forest(compared: Sequence[Comparison], names: Names, title: str) -> str:
    chart = forest_chart(compared, names, title)
    return f"<div class='card wide'>{chart}</div>" if chart else ""


def _against(result: ExperimentResult, analysis: Analysis, names: Names) -> str:
    compared = _family(analysis, "baseline")
    return section(
        "Against the baseline",
        _forest(compared, names, "Difference of final loss from the baseline, with intervals, for every arm"),
        note(
            "Dots: mean over the paired seeds; below zero is better. Ticks: the seeds. Thick: the interval that "
            f"decides, Student’s t at the level that Holm’s correction over all {len(compared)} comparisons leaves "
            "it. Thin: the same at its plain level."
        ),
        _table(comparison_table(compared, names), words=3),
        note(
            "A verdict is whether the deciding interval excludes zero. The percentile bootstrap is shown because it is "
            f"asked for often: with {len(seeds_of(result))} pairs it covers less than it says, and decides nothing. "
            "Mean loss over tokens is the area under the curve over its width. Arms of equal seed share rows, their "
            "order, schedule, budget and initial weights but for what was carried over."
        ),
    )


def _controls(analysis: Analysis, names: Names) -> str:
    compared = _family(analysis, "control")
    if not compared:
        return ""
    return section(
        "Against controls",
        _forest(compared, names, "Difference of final loss from controls, with intervals"),
        _table(comparison_table(compared, names), words=3),
        note(
            "What does no better than its control (shuffled or random tokens, or only the statistics of the initial "
            "weights) has not shown that the rules were of use. A family of its own for the correction."
        ),
    )


def _curves(result: ExperimentResult, analysis: Analysis, names: Names) -> str:
    cards = [
        f"<div><h3>{in_html(title)}</h3><div>{chart}{note(text)}</div></div>"
        for reference, losses, differences in panels(result, analysis, names)
        for title, chart, text in (
            (f"Loss, against {names[reference]}", losses, "Held out. Bands: lowest to highest seed."),
            (
                f"Difference from {names[reference]}",
                differences,
                "Paired by seed; below zero is better. Bands: t intervals of each point, not corrected.",
            ),
        )
        if chart
    ]
    return section("Over the training", f"<div class=curves>{''.join(cards)}</div>") if cards else ""


def _reaches(analysis: Analysis, names: Names) -> str:
    rows = reach_table(_family(analysis, "baseline"), names)
    return section(
        "To the baseline’s final loss",
        _table(rows, words=2),
        note(
            "How many times fewer tokens, FLOPs and seconds than the baseline’s whole run: geometric mean over the "
            "seeds and their range, linear between evaluations. As published, pre-pre-training is free; charged, its "
            "cost is added to the arm that had it. “Never”: not within the budget that both had."
        )
        if rows[1]
        else "",
    )


def _effects(analysis: Analysis) -> str:
    return section(
        "What each factor does",
        _table(effect_table(analysis), words=4),
        note(
            "Averaged over the cells that all seeds have. “Effect of” rows are interactions: how much the effect of "
            "that level on the loss changes from one level of the factor to the other. Descriptive: not corrected."
        )
        if analysis.effects
        else "",
    )


def _in_context(result: ExperimentResult, analysis: Analysis, names: Names) -> str:
    chart = in_context_chart(result, analysis, names)
    return section("Rules inferred in context", f"<div class='card wide'>{chart}</div>") if chart else ""


def _warnings(analysis: Analysis) -> str:
    found = [f"<li>{in_html(str(problem))}</li>" for problem in analysis.problems if problem.effect == "warned"]
    return section("To be known", f"<ul class=note>{''.join(found)}</ul>") if found else ""


def _configurations(result: ExperimentResult) -> list[str]:
    shown = [details(f"the experiment’s file, digest {result.file_digest}", _json(result.experiment))]
    for arm in result.arms:
        whole = {"language": arm.config} | ({"pre-pre-training": arm.pre_config} if arm.pre_config else {})
        shown.append(details(f"{arm.name} ({arm.status})", _json(whole | {"checks": arm.checks})))
    return shown


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _reproduce(result: ExperimentResult) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    return f"<pre>{in_html_lines(result.command)}</pre>" + note(
        f"File digest <code class=digest>{in_html(result.file_digest)}</code>. {in_html(result.started)} to "
        f"{in_html(result.finished)} on {in_html(result.machine)}{'; ' + in_html(versions) if versions else ''}. "
        "Arms that the lake already has are reused, so running it again resumes."
    )
