"""The verdict in one sentence: what is better, what is worse, where no effect was found, and what allows no claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestration.experiment.analysis.compare import Comparison
from orchestration.experiment.analysis.pairs import short_labels
from orchestration.experiment.result import SHORT_UNIT, UNIT, ExperimentResult
from orchestration.reports.templates import signed

NAMED = 3


def sentence(result: ExperimentResult, compared: Sequence[Comparison]) -> str:
    """One sentence over all comparisons with the baseline, the controls' word on what was found better last."""
    asked = [each for each in compared if each.primary]
    family = [each for each in asked if each.family == "baseline" or result.primary]
    if not family:
        return "No verdict: no arm was compared with a baseline."
    by_verdict = {verdict: [each for each in family if each.verdict == verdict] for verdict in WORDS}
    names = short_labels(result)
    stated = result.minimum_detectable_effect
    scale = stated and (
        f" (this design finds {stated.effect:.4f} {SHORT_UNIT[result.metric]} with power {stated.power:g}, as stated "
        "before the runs)"
    )
    parts = [
        _part(verdict, members, names, UNIT[result.metric], result.margin or 0.0)
        + (scale or "" if verdict == "no effect found" else "")
        for verdict, members in by_verdict.items()
        if members
    ]
    better = [each for each in by_verdict["better"] if each.family == "baseline"]
    parts += _controls(better, [each for each in compared if each.family == "control"], names)
    joined = "; ".join(parts)
    rest = len(compared) - len(asked)
    return joined[0].upper() + joined[1:] + "." + (f" {rest} comparisons are exploratory." if rest else "")


WORDS = {
    "better": "better than the baseline: {}",
    "worse": "worse than the baseline: {}",
    "within margin": "within ±{margin:g} {unit} of the baseline: {}",
    "no effect found": "no effect found for {}",
    "void": "no claim for {}, whose synthetic task was not learned",
    "incomplete": "no verdict for {}: a run failed or is missing, or there is one pair of seeds, which has no interval",
    "refused": "no verdict for {}, which may not be compared (see the problems)",
}


def _part(verdict: str, members: Sequence[Comparison], names: Mapping[str, str], unit: str, margin: float) -> str:
    numbers = verdict in ("better", "worse", "within margin")
    ordered = sorted(members, key=_size) if numbers else members
    shown = [_name(each, names) + (f" ({_numbers(each, unit)})" if numbers else "") for each in ordered[:NAMED]]
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    return WORDS[verdict].format(", ".join(shown) + more, margin=margin, unit=unit)


def _name(each: Comparison, names: Mapping[str, str]) -> str:
    """The arm, and what it is against where that is a control."""
    return names[each.label] + (f" against {each.against}" if each.family == "control" else "")


def _size(each: Comparison) -> float:
    return -abs(each.difference.mean) if each.difference else 0.0


def _numbers(each: Comparison, unit: str) -> str:
    if each.difference is None or each.decided is None:
        return "no numbers"
    low, high = signed(each.decided.low), signed(each.decided.high)
    return f"{signed(each.difference.mean)} {unit}, {len(each.difference.seeds)} seeds: {low} to {high}"


def _controls(better: Sequence[Comparison], against: Sequence[Comparison], names: Mapping[str, str]) -> list[str]:
    """An arm that does not beat its controls has shown no use of the rules, whatever it did against the baseline."""
    found = {each.label for each in better}
    unbeaten: dict[str, list[str]] = {}
    for each in against:
        if each.label in found and each.verdict != "better":
            unbeaten.setdefault(each.label, []).append(each.against)
    return [
        f"{names[label]} was not shown to beat its control {' or '.join(levels)}" for label, levels in unbeaten.items()
    ]
