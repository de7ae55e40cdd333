"""The demo's first question, at a size where an answer can be seen in three minutes: what does carried attention bring?

A model of two layers learns to read in-context Markov chains, from scratch and with attention carried over: from chains
of other symbols, which should help if anything does, and from automata. ``experiments/markov.toml`` asks at length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from datalake import Lake
from orchestration.experiment.analysis.analyse import Analysis, analyse
from orchestration.experiment.analysis.pairs import short_labels
from orchestration.experiment.config.load import parse_experiment
from orchestration.experiment.report.charts import accuracy_chart
from orchestration.experiment.report.numbers import interval
from orchestration.experiment.result import ExperimentResult
from orchestration.experiment.run.runner import run_experiment
from orchestration.reports.templates import signed
from orchestration.runs.signals import Stop

_STAGE: dict[str, Any] = {
    "batch_sequences": 128,
    "precision": "fp32",
    "keep_last": 1,
    "optimizer": {"lr": 8e-3, "weight_decay": 0.0, "betas": [0.9, 0.999]},
    "schedule": {"final_fraction": 1.0},
}

PROBE: dict[str, Any] = {
    "name": "demo-probe",
    "question": "Does carried attention bring the reading of a chain's rule forward?",
    "seeds": [1, 2, 3],
    "primary": ["chains", "nca"],
    "factors": {"pre": ["none", "chains", "nca"], "transfer": ["attn"]},
    "corpus": {
        "name": "demo-chains",
        "task": {"family": "markov", "seq_len": 48, "vocabulary": 100, "states": 12, "answers_from": 16},
        "heldout_sequences": 512,
    },
    "model": {"depth": 1, "layers": 2, "dim": 32, "heads": 4, "learned_positions": 47},
    "pre": {
        "gate_sequences": 128,
        "loss_masks": {"nca": "first_frame", "chains": "answers"},
        "spec": {
            "grid": [6, 6],
            "colors": 2,
            "patch": 2,
            "seq_len": 48,
            "band": {"score": "gzip-int32-v1-normalized", "low": 0.3, "high": 0.8},
        },
        "specs": {
            "chains": {"family": "markov", "seq_len": 48, "vocabulary": 32, "states": 8, "answers_from": 12},
        },
        "train": {**_STAGE, "steps": 800, "checkpoint_every": 800},  # chains are not learned on every seed in 600
    },
    "train": {
        **_STAGE,
        "steps": 250,
        "loss_mask": "answers",
        "eval_sequences": 512,
        "eval_every": 25,
        "checkpoint_every": 250,
    },
}

WORDS = {"none": "from scratch", "chains": "chains of other symbols", "nca": "automata"}
"""What the arms are called in a sentence."""


@dataclass(frozen=True)
class ProbeOutcome:
    """An experiment's result and what is said of it."""

    result: ExperimentResult
    analysis: Analysis

    @property
    def sentence(self) -> str:
        """What was seen, with intervals."""
        means = {each.label: each.mean for each in self.analysis.answers}
        names = short_labels(self.result)
        base = next((mean for label, mean in means.items() if names[label] == "none"), None)
        if base is None:
            return f"The probe gave no verdict. {self.analysis.verdict}"
        said = [
            f"After {self.result.arms[0].checks['steps']} steps a model of two layers answers {base:.0%} of what a new "
            f"Markov chain's rule tells, from scratch"
        ]
        for each in self.analysis.comparisons:
            if each.family != "baseline":
                continue
            name = WORDS.get(names[each.label], names[each.label])
            if each.difference is None or each.label not in means:
                said.append(f"with attention carried over from {name} nothing can be said ({each.verdict})")
                continue
            said.append(
                f"{means[each.label]:.0%} with attention carried over from {name} ({signed(each.difference.mean, 2)}, "
                f"{interval(each.decided, 2)}; {each.verdict})"
            )
        return f"{'; '.join(said)}. {len(self.result.arms) // len(means)} seeds each."

    @property
    def chart(self) -> Markup:
        """Accuracy over steps."""
        names = short_labels(self.result)
        members = [each.label for each in self.analysis.answers]
        return accuracy_chart(self.result, members, {label: WORDS.get(names[label], names[label]) for label in members})

    def to_json(self) -> dict[str, Any]:
        """The sentence, each arm's accuracies by seed, and each comparison."""
        return {
            "sentence": self.sentence,
            "experiment": self.result.name,
            "answers": [each.model_dump(mode="json") for each in self.analysis.answers],
            "comparisons": [
                each.model_dump(mode="json", include={"label", "against", "verdict", "difference", "decided"})
                for each in self.analysis.comparisons
            ],
        }


def run_probe(lake: Lake, fields: Mapping[str, Any], stop: Stop) -> ProbeOutcome:
    """Run, or go on with, the probe's runs. Ray must be running. Raises what `run_experiment` raises."""
    result = run_experiment(lake, parse_experiment(fields), stop=stop)
    return ProbeOutcome(result, analyse(result))
