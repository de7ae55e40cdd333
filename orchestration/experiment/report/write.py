"""Write an experiment's report: a page for people and the same as JSON for programs."""

from __future__ import annotations

from pathlib import Path

from orchestration.console.foreign import as_json
from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.report.page import render
from orchestration.experiment.result import ExperimentResult


def write_report(result: ExperimentResult, analysis: Analysis, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` ({"result", "analysis"}) into ``folder``, which is made if absent."""
    page = render(result, analysis)
    values = {"result": result.model_dump(mode="json"), "analysis": analysis.model_dump(mode="json")}
    data = as_json(values, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    html_path, json_path = folder / "report.html", folder / "report.json"
    html_path.write_text(page, encoding="utf-8")
    json_path.write_text(data, encoding="utf-8")
    return html_path, json_path
