"""The checker itself: histories known to be linearizable or not, and agreement with trying every order."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.lake.linearizability import EMPTY, Call, after, explain, linear_order


def append(begin, end, expected, value, result, client=0):
    return Call(client, "append", begin, end, value, expected, result)


def read(begin, end, number, value, client=1):
    return Call(client, "read", begin, end, result=(number, value))


GOOD = {
    "nothing": [],
    "in turn": [append(0, 1, 0, "a", ("ok", 1)), read(2, 3, 1, "a"), append(4, 5, 1, "b", ("ok", 2))],
    "a read beside an append sees before or after": [
        append(0, 9, 0, "a", ("ok", 1)),
        read(1, 2, 0, None),
        read(3, 4, 1, "a"),
    ],
    "one of two wins": [append(0, 5, 0, "a", ("ok", 1)), append(0, 5, 0, "b", ("conflict", 1), 2)],
    "a conflict may name a later head": [
        append(0, 9, 0, "a", ("conflict", 2), 2),
        append(1, 2, 0, "b", ("ok", 1)),
        append(3, 4, 1, "c", ("ok", 2)),
    ],
    "a lost answer took effect": [append(0, math.inf, 0, "a", None), read(5, 6, 1, "a")],
    "a lost answer took effect late": [
        append(0, math.inf, 0, "a", None),
        read(5, 6, 0, None),
        read(7, 8, 1, "a"),
    ],
    "a lost answer never took effect": [
        append(0, math.inf, 0, "a", None),
        append(5, 6, 0, "b", ("ok", 1), 2),
        read(7, 8, 1, "b"),
    ],
    "an update goes where the head is": [
        append(0, 1, 0, "a", ("ok", 1)),
        Call(2, "update", 0, 9, "u", result=("ok", 2)),
        read(10, 11, 2, "u"),
    ],
}
BAD = {
    "two winners": [append(0, 5, 0, "a", ("ok", 1)), append(0, 5, 0, "b", ("ok", 1), 2)],
    "a read of the past": [append(0, 1, 0, "a", ("ok", 1)), read(2, 3, 0, None)],
    "new, then old": [append(0, 9, 0, "a", ("ok", 1)), read(1, 2, 1, "a"), read(3, 4, 0, None)],
    "new here, then old there": [append(0, 9, 0, "a", ("ok", 1)), read(1, 2, 1, "a"), read(3, 4, 0, None, client=5)],
    "an acknowledged entry is lost": [append(0, 1, 0, "a", ("ok", 1)), append(2, 3, 0, "b", ("ok", 1))],
    "a value from nowhere": [append(0, 1, 0, "a", ("ok", 1)), read(2, 3, 1, "b")],
    "a conflict without a reason": [append(0, 1, 0, "a", ("conflict", 0))],
    "a conflict that names a head that never was": [
        append(0, 1, 0, "a", ("ok", 1)),
        append(2, 3, 0, "b", ("conflict", 2)),
    ],
    "a lost answer took effect twice": [
        Call(0, "update", 0, math.inf, "a"),
        read(1, 2, 1, "a"),
        read(3, 4, 2, "a"),
    ],
    "a future": [read(0, 1, 1, "a"), append(2, 3, 0, "a", ("ok", 1))],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
def test_good(history) -> None:
    order = linear_order(history)
    assert order is not None, explain(history)
    assert {id(call) for call in history if not call.unknown} <= {id(call) for call in order}


@pytest.mark.parametrize("history", BAD.values(), ids=BAD.keys())
def test_bad(history) -> None:
    assert linear_order(history) is None, explain(history)


def every_order(history) -> bool:
    """Whether some order of some of the calls (all that answered) keeps real time and the sequential log's rules."""
    for size in range(len(history) + 1):
        for order in permutations(history, size):
            left_out = [call for call in history if call not in order]
            if any(not call.unknown for call in left_out):
                continue
            if any(order[j].end < order[i].begin for i in range(size) for j in range(i + 1, size)):
                continue
            state = EMPTY
            for call in order:
                state = after(state, call)
                if state is None:
                    break
            else:
                return True
    return False


@st.composite
def histories(draw):
    calls = []
    for client in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, 6)) + client / 100  # no two times are equal
        end = begin + draw(st.integers(0, 5)) + 0.5
        kind = draw(st.sampled_from(["read", "append", "append", "update"]))
        number = draw(st.integers(0, 2))
        if kind == "read":
            values = [None] if number == 0 else [f"v{other}" for other in range(5)]
            calls.append(Call(client, kind, begin, end, result=(number, draw(st.sampled_from(values)))))
            continue
        choices = [("ok", number + 1), None] + ([("conflict", draw(st.integers(0, 2)))] if kind == "append" else [])
        result = draw(st.sampled_from(choices))
        calls.append(Call(client, kind, begin, end if result else math.inf, f"v{client}", number, result))
    return calls


@settings(max_examples=300, deadline=None)
@given(histories())
def test_agrees_with_trying_every_order(history) -> None:
    assert (linear_order(history) is not None) == every_order(history), explain(history)
