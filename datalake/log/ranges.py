"""Sets of whole numbers as sorted ranges ``[[first, last], …]``, both ends included: how log entries keep marks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

Ranges = list[list[int]]


def add_numbers(ranges: Sequence[Sequence[int]], numbers: Iterable[int]) -> Ranges:
    """Return ``ranges`` with ``numbers`` in them; ranges that touch become one."""
    merged: Ranges = []
    for first, last in sorted([*(tuple(pair) for pair in ranges), *((number, number) for number in numbers)]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(last, merged[-1][1])
        else:
            merged.append([first, last])
    return merged


def is_in(ranges: Sequence[Sequence[int]], number: int) -> bool:
    """Return whether ``number`` is in one of ``ranges``."""
    return any(first <= number <= last for first, last in ranges)


def size(ranges: Sequence[Sequence[int]]) -> int:
    """Return how many numbers are in ``ranges``."""
    return sum(last - first + 1 for first, last in ranges)


def numbers_outside(ranges: Sequence[Sequence[int]], first: int, last: int) -> Iterator[int]:
    """Yield the numbers from ``last`` down to ``first`` that are in none of ``ranges``."""
    end = last
    for low, high in reversed(ranges):
        yield from range(end, max(high, first - 1), -1)
        end = min(end, low - 1)
    yield from range(end, first - 1, -1)
