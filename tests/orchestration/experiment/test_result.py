"""Results of experiments survive JSON, and an arm's label is stable."""

import pytest
from pydantic import ValidationError

from orchestration.experiment.result import Arm, ArmResult, CurvePoint, ExperimentResult


def test_a_label_has_the_known_factors_first_and_leaves_out_what_does_not_apply():
    factors = {"zeta": "1", "optimizer": "muon", "pre_optimizer": "-", "pre": "none", "alpha": "2"}
    assert Arm(factors=factors, seed=3).label == "none · muon · 2 · 1"


def test_a_result_survives_json():
    arm = ArmResult(
        arm=Arm(factors={"pre": "nca"}, seed=1),
        status="finished",
        config={"steps": 10, "data": [{"dataset": "x@1"}]},
        checks={"steps": 10, "schedule": "{}", "rate": 0.1},
        curve=(CurvePoint(step=10, tokens=640, loss=1 / 3),),
        final_loss=1 / 3,
    )
    result = ExperimentResult(
        name="t",
        file_digest="0" * 64,
        baseline={"pre": "none"},
        arms=(arm,),
        started="a",
        finished="b",
        command="c",
        machine="d",
        factor_sets={"mixing": ("plan_digest",)},
    )
    assert ExperimentResult.model_validate_json(result.model_dump_json()) == result


def test_what_is_not_a_number_is_no_measurement():
    with pytest.raises(ValidationError, match="finite"):
        CurvePoint(step=1, tokens=1, loss=float("nan"))
