"""A machine too busy for Ray's own 30 s: tried again, then told in one line; anything else is raised as it is."""

from __future__ import annotations

import pytest

from orchestration import ray_session as module
from orchestration.errors import ClusterLostError

BUSY = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture
def starts(monkeypatch):
    """What each start of Ray raises, in order; None is a start that works."""
    outcomes = []

    def init(**_):
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    monkeypatch.setattr(module.ray, "init", init)
    return outcomes


def test_a_start_that_took_too_long_is_tried_again(starts, capsys):
    starts += [Exception(BUSY), None, None]
    module._start({})
    assert starts == [None]
    assert "busy" in "".join(capsys.readouterr())


def test_three_are_told_in_one_line(starts):
    starts += [Exception(BUSY)] * 3
    with pytest.raises(ClusterLostError, match=r"3 times.*RAY_ADDRESS"):
        module._start({})
    assert starts == []


def test_another_failure_is_not_repeated(starts):
    starts += [ValueError("num_cpus"), None]
    with pytest.raises(ValueError, match="num_cpus"):
        module._start({})
    assert starts == [None]
