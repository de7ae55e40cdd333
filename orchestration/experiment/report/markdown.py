"""The report as Markdown for a pull request: the verdict, the table that decides, the costs, the problems."""

from __future__ import annotations

from collections.abc import Sequence

from orchestration.console.foreign import in_code, in_markdown
from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.analysis.pairs import seeds_of, short_labels
from orchestration.experiment.analysis.sequential import say_looks
from orchestration.experiment.report.tables import (
    Rows,
    answers_table,
    arm_table,
    comparison_table,
    effect_table,
    reach_table,
    run_table,
)
from orchestration.experiment.result import SHORT_UNIT, ExperimentResult

DECIDING = 7  # columns of the comparison table that fit a pull request


def to_markdown(result: ExperimentResult, analysis: Analysis) -> str:
    """A page of GitHub's Markdown."""
    names = short_labels(result)
    baseline, controls = analysis.compared_with("baseline"), analysis.compared_with("control")
    stated = result.minimum_detectable_effect
    lost = sum(arm.status != "finished" for arm in result.arms)
    blocks = [
        f"### {in_markdown(result.name)}",
        f"**{in_markdown(analysis.verdict)}**",
        (
            f"{len(result.arms)} runs ({lost} failed or missing), {len(seeds_of(result))} paired seeds. "
            + (
                f"Stated before the runs: finds {stated.effect:.4f} {SHORT_UNIT[result.metric]} with power "
                f"{stated.power:g} at an SD of "
                f"{stated.sd:g} ({in_markdown(stated.source)}), alpha {stated.alpha:g} over "
                f"{stated.comparisons} comparisons."
                if stated
                else "No smallest detectable effect was stated before the runs."
            )
            + (f" Pairs were {say_looks(result.looks)}." if result.looks else "")
            + (
                f" As it turned out: SD {seen.sd:.2g}, so {seen.effect:.4f} {SHORT_UNIT[result.metric]}."
                if (seen := analysis.observed)
                else ""
            )
        ),
        *(
            _block(
                f"Problems ({effect})",
                [f"- {in_markdown(problem)}" for problem in analysis.problems if problem.effect == effect],
            )
            for effect in ("refused", "incomplete", "void", "warned")
        ),
        _rows("Against the baseline", comparison_table(baseline, names, result.metric), DECIDING),
        _rows("Against controls", comparison_table(controls, names, result.metric), DECIDING),
        _rows("Answers", answers_table(analysis, names)),
        _rows("To the baseline’s final loss", reach_table(baseline, names)),
        _rows("Factors (descriptive, not corrected)", effect_table(analysis)),
        _folded(_rows("Arms", arm_table(analysis, names)), "every arm"),
        _folded(_rows("Runs", run_table(result, names)), "every run"),
        in_code(result.command),
        f"File digest {in_code(result.file_digest)}; "
        f"{in_markdown(f'{result.started} to {result.finished}; {result.machine}')}.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _block(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"**{title}**", "", *lines]) if lines else ""


def _rows(title: str, rows: Rows, columns: int | None = None) -> str:
    head, body = rows
    if not body:
        return ""
    head_line, *lines = ([in_markdown(cell) for cell in row[:columns]] for row in (head, *body))
    rule = ["---"] * len(head_line)  # markup, which as a cell's text would be escaped
    return _block(title, ["| " + " | ".join(line) + " |" for line in (head_line, rule, *lines)])


def _folded(block: str, summary: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{block}\n\n</details>" if block else ""
