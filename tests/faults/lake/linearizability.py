"""Is a recorded history of calls on one version log linearizable?

The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory of configurations
("Testing for linearizability", 2017): take some call that began before every unfinished one ended, see whether the
sequential log allows its answer, go on; never visit the same (calls taken, state) twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

State = tuple[int, str | None]  # number and value of the newest entry; (0, None) for an empty log
EMPTY: State = (0, None)


@dataclass(frozen=True)
class Call:
    """One call of a client. Times are of one clock for all clients; ``end`` is infinite if it never answered.

    ``kind`` "read": ``result`` is (number, value) of the head. "append" of ``value`` if the head is ``expected``, and
    "update" (append to whatever the head is): ``result`` is ("ok", number) or ("conflict", found). ``result`` None:
    unknown, the call may have had its effect at any time since it began, or may never have it.
    """

    client: int
    kind: str
    begin: float
    end: float = math.inf
    value: str | None = None
    expected: int = 0
    result: tuple[object, object] | None = None

    @property
    def unknown(self) -> bool:
        return self.result is None


def after(state: State, call: Call) -> State | None:
    """The state after ``call`` takes effect in ``state``; None if the sequential log would not answer so."""
    number, _ = state
    if call.kind == "read":
        return state if call.unknown or call.result == state else None
    if call.kind == "append" and call.expected != number:
        return state if call.result == ("conflict", number) else None
    return (number + 1, call.value) if call.unknown or call.result == ("ok", number + 1) else None


def linear_order(history: Sequence[Call]) -> list[Call] | None:
    """An order of effects that explains the history, or None if there is none: then it is not linearizable."""
    calls = sorted(history, key=lambda call: call.end)  # trying early ends first is nearly always right
    must = sum(1 << index for index, call in enumerate(calls) if not call.unknown)
    visited: set[tuple[int, State]] = set()
    order: list[Call] = []
    stack = [(0, EMPTY, _next(calls, 0, EMPTY))]
    while stack:
        taken, _state, choices = stack[-1]
        if taken & must == must:
            return order
        for index, new in choices:
            reached = (taken | 1 << index, new)
            if reached not in visited:
                visited.add(reached)
                order.append(calls[index])
                stack.append((*reached, _next(calls, *reached)))
                break
        else:
            stack.pop()
            if order:
                order.pop()
    return None


def _next(calls: Sequence[Call], taken: int, state: State):
    """Calls that may take effect next, with the state they lead to."""
    left = [(index, call) for index, call in enumerate(calls) if not taken >> index & 1]
    first_end = min((call.end for _, call in left if not call.unknown), default=math.inf)
    for index, call in left:
        if call.begin <= first_end and (new := after(state, call)) is not None:
            yield index, new


def explain(history: Sequence[Call]) -> str:
    """The history as text, one call a line, for a failing test."""
    ordered = sorted(history, key=lambda call: call.begin)
    began = ordered[0].begin if ordered else 0.0
    lines = []
    for call in ordered:
        what = f"{call.kind} {call.value or ''}" + (f" at {call.expected}" if call.kind == "append" else "")
        answer = "?" if call.result is None else " ".join(map(str, call.result))
        lines.append(f"{call.begin - began:9.4f} {call.end - began:9.4f}  client {call.client:2}  {what} -> {answer}")
    return "\n".join(lines)
