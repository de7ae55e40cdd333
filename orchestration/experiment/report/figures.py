"""The figures of a report, drawn once: for its page, and as files that stand alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.analysis.pairs import short_labels
from orchestration.experiment.report.charts import accuracy_chart, forest_chart, in_context_chart, panels
from orchestration.experiment.result import ExperimentResult


class Figures(NamedTuple):
    """All figures of one report; one that has nothing to show is empty.

    ``curves`` has the baseline's label, the losses and the differences from them, of each baseline.
    """

    differences: Markup
    controls: Markup
    accuracy: Markup
    in_context: Markup
    curves: Sequence[tuple[str, Markup, Markup]]

    def by_name(self) -> dict[str, Markup]:
        """Those that show something, by the name of the file that one becomes, without its ending."""
        found = {
            "differences": self.differences,
            "controls": self.controls,
            "accuracy": self.accuracy,
            "in-context": self.in_context,
        }
        for number, (_, losses, differences) in enumerate(self.curves, 1):
            of = f"-{number}" if len(self.curves) > 1 else ""
            found |= {f"loss{of}": losses, f"loss-difference{of}": differences}
        return {name: figure for name, figure in found.items() if figure}


def draw(result: ExperimentResult, analysis: Analysis) -> Figures:
    """Draw all of them, which takes seconds."""
    names = short_labels(result)
    title = "Difference of final score from"
    return Figures(
        forest_chart(
            analysis.compared_with("baseline"),
            names,
            f"{title} the baseline, with intervals, for every arm",
            result.metric,
        ),
        forest_chart(analysis.compared_with("control"), names, f"{title} controls, with intervals", result.metric),
        accuracy_chart(result, [each.label for each in analysis.answers], names),
        in_context_chart(result, analysis, names),
        panels(result, analysis, names),
    )
