"""A problem with an arm: what was found, what was expected, what to do, and what it does to the arm's comparisons."""

from __future__ import annotations

from typing import Literal

from orchestration.experiment.result import ResultModel

Effect = Literal["refused", "void", "incomplete", "warned"]
"""``refused``: the arm is compared with none. ``void``: the numbers are shown and no claim is made. ``incomplete``: a
pair is lacking, so no verdict. ``warned``: the reader must know."""


class Problem(ResultModel):
    """One finding about one arm ("LABEL, seed N", or a label alone for all its seeds)."""

    arm: str
    check: str
    found: str
    expected: str
    message: str
    effect: Effect = "refused"

    def __str__(self) -> str:
        return f"{self.arm}: {self.check} = {self.found}, expected {self.expected}; {self.message}"
