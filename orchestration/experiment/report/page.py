"""The report of an experiment as one self-contained HTML page: inline style and figures, no script, no link out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from orchestration.console.foreign import as_json
from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.analysis.compare import Comparison
from orchestration.experiment.analysis.pairs import seeds_of, short_labels
from orchestration.experiment.analysis.sequential import say_looks
from orchestration.experiment.report.figures import Figures, draw
from orchestration.experiment.report.markdown import to_markdown
from orchestration.experiment.report.tables import (
    Names,
    answers_table,
    arm_table,
    comparison_table,
    effect_table,
    reach_table,
    run_table,
    sweep_table,
)
from orchestration.experiment.result import SHORT_UNIT, ExperimentResult, Metric
from orchestration.reports.svg import as_file
from orchestration.reports.templates import report

SAID = {
    "refused": "Not compared: these arms differ from the others in more than their factors, or their records do not "
    "hold together. Their comparisons show no numbers.",
    "incomplete": "No verdict: a run failed or is missing, so its comparison is without a pair.",
    "void": "No claim: the synthetic task was not learned, so the arm says nothing about learning it.",
}


def render(result: ExperimentResult, analysis: Analysis, figures: Figures | None = None) -> str:
    """The whole HTML document, with ``figures`` or what ``draw`` makes of the same."""
    names = short_labels(result)
    figures = figures or draw(result, analysis)
    baseline, controls = analysis.compared_with("baseline"), analysis.compared_with("control")
    return report(
        "experiment.html",
        title=f"Morphogen experiment: {result.name}",
        result=result,
        analysis=analysis,
        question=str(result.experiment.get("question", "")),
        alarms=_alarms(analysis),
        tiles=_tiles(result, analysis),
        seeds=len(seeds_of(result)),
        baseline=_compared(baseline, names, figures.differences, result.metric),
        controls=_compared(controls, names, figures.controls, result.metric),
        answers=answers_table(analysis, names),
        accuracies=figures.accuracy,
        cards=_cards(figures, names),
        reaches=reach_table(baseline, names),
        effects=effect_table(analysis),
        in_context=figures.in_context,
        tables=[
            ("Arms and what they cost", arm_table(analysis, names), 2),
            ("Every run", run_table(result, names), 4),
            ("Learning rates tried", sweep_table(result, names), 2),
        ],
        warnings=[str(problem) for problem in analysis.problems if problem.effect == "warned"],
        configurations=_configurations(result),
        versions=", ".join(f"{name} {number}" for name, number in result.versions.items()),
    )


def _alarms(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """What forbids a verdict, by kind, and the problems of that kind."""
    found = {
        effect: [str(problem) for problem in analysis.problems if problem.effect == effect]
        for effect in ("refused", "incomplete", "void")
    }
    return [(SAID[effect], problems) for effect, problems in found.items() if problems]


def _tiles(result: ExperimentResult, analysis: Analysis) -> list[tuple[str, str, str]]:
    done = sum(arm.status == "finished" for arm in result.arms)
    gated = [arm for arm in result.arms if arm.gated and arm.status == "finished"]
    learned = sum(arm.gate is not None and arm.gate.under for arm in gated)
    decided = analysis.compared_with("baseline")
    return [
        ("runs finished", f"{done} of {len(result.arms)}", "failed and missing ones are shown below"),
        (
            "paired seeds",
            str(len(seeds_of(result))),
            f"{len(decided)} comparisons share an error rate of {result.alpha:g}",
        ),
        ("synthetic task learned", f"{learned} of {len(gated)}", "runs that are claimed to learn it"),
        ("smallest effect that can be found", *_stated(result, analysis)),
    ]


def _stated(result: ExperimentResult, analysis: Analysis) -> tuple[str, str]:
    stated, seen = result.minimum_detectable_effect, analysis.observed
    after = f"; as it turned out, SD {seen.sd:.2g} and so {seen.effect:.4f}" if seen else ""
    if stated is None:
        return "not stated", f"nothing was said before the runs{after}"
    return (
        f"{stated.effect:.4f} {SHORT_UNIT[result.metric]}",
        f"stated before the runs: power {stated.power:g}, paired differences of SD {stated.sd:g} "
        f"({stated.source}){after}" + (f"; pairs were {say_looks(result.looks)}" if result.looks else ""),
    )


def _compared(compared: Sequence[Comparison], names: Names, forest: Markup, metric: Metric) -> dict[str, Any]:
    return {
        "count": len(compared),
        "forest": forest,
        "table": comparison_table(compared, names, metric),
    }


def _cards(figures: Figures, names: Names) -> list[tuple[str, Markup, str]]:
    """Title, figure and note of each curve."""
    return [
        card
        for reference, losses, differences in figures.curves
        for card in (
            (f"Loss, against {names[reference]}", losses, "Held out. Bands: lowest to highest seed."),
            (
                f"Difference from {names[reference]}",
                differences,
                "Paired by seed; below zero is better. Bands: t intervals of each point, not corrected.",
            ),
        )
        if card[1]
    ]


def _configurations(result: ExperimentResult) -> list[tuple[str, str]]:
    """Title and JSON of the experiment's file and of every arm's configuration."""
    found = [(f"the experiment’s file, digest {result.file_digest}", _json(result.experiment))]
    for arm in result.arms:
        whole = {"language": arm.config} | ({"pre-pre-training": arm.pre_config} if arm.pre_config else {})
        found.append((f"{arm.name} ({arm.status})", _json(whole | {"checks": arm.checks})))
    return found


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def write_report(result: ExperimentResult, analysis: Analysis, folder: Path) -> tuple[Path, Path]:
    """Write the report into ``folder``, which is made if absent; returns the paths of its page and its numbers.

    ``report.html`` is the page, ``report.json`` all numbers ({"result", "analysis"}), ``report.md`` the summary for a
    pull request, and ``figures`` has the page's figures as SVG files.
    """
    figures = draw(result, analysis)
    page = render(result, analysis, figures)
    values = {"result": result.model_dump(mode="json"), "analysis": analysis.model_dump(mode="json")}
    html_path, json_path, drawn = folder / "report.html", folder / "report.json", folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    html_path.write_text(page, encoding="utf-8")
    json_path.write_text(as_json(values, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(result, analysis), encoding="utf-8")
    for name, figure in figures.by_name().items():
        (drawn / f"{name}.svg").write_text(as_file(figure), encoding="utf-8")
    return html_path, json_path
