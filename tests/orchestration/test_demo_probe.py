"""What the demo says of its probe: every arm with its interval, and no more where an arm gives no verdict."""

from orchestration.experiment.analysis.analyse import analyse
from orchestration.experiment.config.load import parse_experiment
from orchestration.experiment.result import ArmResult, ExperimentResult
from orchestration.pipeline.demo import DEMO, TOY
from orchestration.pipeline.demo_probe import ProbeOutcome
from tests.orchestration.experiment.builder import experiment, spoil


def answered(accuracies: dict[str, float]) -> ExperimentResult:
    """Three seeds of each arm, whose final accuracies are near those given."""
    result = experiment({level: 0.0 for level in accuracies if level != "none"})
    result = result.model_copy(update={"metric": "accuracy", "primary": ("chains", "nca")})
    for level, accuracy in accuracies.items():

        def final(arm: ArmResult, accuracy: float = accuracy) -> float:
            return accuracy + 0.001 * arm.arm.seed * (1 if arm.gated else 2)

        def curve(arm: ArmResult) -> tuple[object, ...]:
            return tuple(point.model_copy(update={"accuracy": final(arm)}) for point in arm.curve)

        result = spoil(result, level, None, accuracy=final, curve=curve)
    return result


def outcome(result: ExperimentResult) -> ProbeOutcome:
    return ProbeOutcome(result, analyse(result))


def test_it_says_what_each_arm_reached_and_how_surely() -> None:
    said = outcome(answered({"none": 0.4, "chains": 0.75, "nca": 0.402}))
    assert said.sentence.startswith(
        "After 100 steps a model of two layers answers 40% of what a new Markov chain's rule"
    )
    assert (
        "75% with attention carried over from chains of other symbols (+0.35, +0.34 to +0.35; better)" in said.sentence
    )
    assert "40% with attention carried over from automata (+0.00, −0.00 to +0.00; no effect found)" in said.sentence
    assert said.sentence.endswith("3 seeds each.")
    assert "automata" in said.chart
    assert said.to_json()["sentence"] == said.sentence


def test_an_arm_that_learned_nothing_before_gets_no_verdict() -> None:
    result = answered({"none": 0.4, "chains": 0.75, "nca": 0.402})
    lost = spoil(result, "nca", 2, status="failed", accuracy=None, error="DivergedError: loss = nan", curve=())
    sentence = outcome(lost).sentence
    assert "from chains of other symbols (+0.35, +0.34 to +0.35; better)" in sentence
    assert "; incomplete)" in sentence


def test_the_shipped_probes_are_experiments() -> None:
    for settings in (DEMO, TOY):
        file = parse_experiment(settings.probe)
        assert file.metric == "accuracy"
        assert file.primary_comparisons == 2
