"""Rows of small integers, whose matches the kernel finds by whole cells: sizes are zlib's where cells hide a choice.

Strings of one phase share whole cells, those of different phases zeros and what stands between zeros; and how many
strings zlib looks at is limited. Each kind of row here leans on one of these.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator.gzip_cells import LONGEST_ROW
from generator.gzip_kernel import stream_sizes
from generator.gzip_sweep import LANES, PLACES
from tests.generator.test_gzip_kernel import by_zlib, needs_madler

pytestmark = needs_madler

# The largest cell: bytes where others are zero begin at 256 and, too large for this search, at 65,536.
TOPS = (2, 3, 4, 16, 64, 255, 256, 257, 300, 512, 1024, 4096, 10_000, 65_536, 65_537, 70_000)


def assert_cells(rows: np.ndarray, cut: int = 0) -> None:
    """Of rows of int32 cells [N, C], without the last `cut` bytes."""
    data = np.ascontiguousarray(rows, "<i4").view(np.uint8)
    data = np.ascontiguousarray(data[:, : data.shape[1] - cut])
    found, expected = stream_sizes(data), by_zlib(data)
    assert (found == expected).all(), (data.shape, np.flatnonzero(found != expected))


def few_colors(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    palette = random.integers(0, top, random.integers(1, 6))
    return palette[random.integers(0, len(palette), count)]


def runs_of_zeros(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    runs = random.integers(1, random.integers(2, 90), count)
    zero = np.repeat(random.random(count) < random.uniform(0.1, 0.9), runs)[:count]
    return np.where(zero, 0, random.integers(0, top, count))


def periods(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    period = random.integers(1, max(2, count))
    row = np.tile(random.integers(0, top, period), count // period + 1)[:count]
    return np.where(random.random(count) < random.choice([0, 0.002, 0.02, 0.1]), random.integers(0, top, count), row)


def almost_all_equal(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    edits = random.random(count) < random.choice([0, 0.005, 0.05])
    return np.where(edits, random.integers(0, top, count), random.integers(0, top))


def phases_that_meet(random: np.random.Generator, count: int, _top: int) -> np.ndarray:
    small = random.integers(0, random.integers(1, 6), count)
    return small * np.where(random.random(count) < random.uniform(0, 1), 256, 1)


def bytes_of_few_values(random: np.random.Generator, count: int, _top: int) -> np.ndarray:
    palette = np.append(random.integers(0, 256, random.integers(1, 5)), 0)
    low, high = palette[random.integers(0, len(palette), (2, count))]
    return low + 256 * high


def words(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    book = random.integers(0, top, (random.integers(1, 8), random.integers(1, 40)))
    said = [word[: random.integers(1, len(word) + 1)] for word in book[random.integers(0, len(book), count)]]
    return np.concatenate(said)[:count]


def cut_copies(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    """Of one piece, from anywhere to anywhere: matches of all lengths lie at all distances, and may go on by a byte."""
    piece, row = random.integers(0, top, 60), [random.integers(0, top, 5)]
    while sum(map(len, row)) < count:
        start, end = np.sort(random.integers(0, 61, 2))
        row += [
            piece[start:end],
            piece[end : end + 1] ^ 256 * (top > 256),
            random.integers(0, top, random.integers(0, 3)),
        ]
    return np.concatenate(row)[:count]


def skewed(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    return np.minimum(random.geometric(random.uniform(0.01, 0.9), count) - 1, top - 1)


def noise(random: np.random.Generator, count: int, top: int) -> np.ndarray:
    return random.integers(0, top, count)


KINDS = (
    noise,
    few_colors,
    runs_of_zeros,
    periods,
    almost_all_equal,
    phases_that_meet,
    bytes_of_few_values,
    words,
    cut_copies,
    skewed,
)


def check_kinds(seed: int, turns: int, most: int) -> None:
    """Eight rows of each kind, of up to `most` cells, `turns` times."""
    random = np.random.Generator(np.random.Philox(seed))
    for _ in range(turns):
        for kind in KINDS:
            count = int(random.integers(1, 2 + int(most ** random.uniform(0.3, 1))))
            top = int(random.choice(TOPS))
            assert_cells(np.stack([kind(random, count, top) for _ in range(8)]), int(random.choice([0, 0, 0, 1, 2, 3])))


@pytest.mark.parametrize("most", [60, 400, 1100, 2100])
def test_rows_that_lean_on_cells(most):
    check_kinds(most, 12, most)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from((0, 1, 2, 255, 256, 257, 512, 513)), min_size=1, max_size=6), st.integers(1, 70)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_drawn_cells(parts):
    assert_cells(np.array([[cell for part, times in parts for cell in part * times]]))


COUNTS = (1, 2, 3, LANES - 1, LANES, LANES + 1, PLACES - 1, PLACES, PLACES + 1, 2 * PLACES + LANES, LONGEST_ROW // 4)


@pytest.mark.parametrize("count", COUNTS)
def test_counts_where_vectors_and_places_end(count):
    random = np.random.Generator(np.random.Philox(count))
    for top in (1, 2, 5, 200, 300, 9_999):
        assert_cells(random.integers(0, top, (4, count)))
        assert_cells(np.tile(random.integers(0, top, (4, 1 + count // 3)), 4)[:, :count])


@pytest.mark.parametrize("length", [250, 254, 255, 256, 257, 258, 259, 260, 262])
def test_matches_about_the_longest(length):
    random = np.random.Generator(np.random.Philox(length))
    cells = -(-length // 4)
    for before in range(3):
        piece = random.integers(1, 60_000, cells + 8)
        other = np.concatenate([random.integers(1, 60_000, before), piece[:cells], random.integers(1, 60_000, 3)])
        assert_cells(np.concatenate([[7], piece, other, piece, other])[None])
        assert_cells(np.concatenate([piece & 255, np.zeros(cells, np.int64), piece & 255, other & 255])[None])


@pytest.mark.parametrize("strings", [1022, 1023, 1024, 1025, 1026, 1030, 1100])
def test_chains_about_the_shorter_limit(strings):
    """With a match of 32 bytes in hand zlib looks at 1,024 strings, here of zeros, and the better one lies behind."""
    random = np.random.Generator(np.random.Philox(strings))
    for around in range(-3, 4):
        good, better = random.integers(1, 256, 9), random.integers(1, 256, 30)
        row = [*better, *random.integers(1, 256, strings + around - 12), *good, 3, 5, *good, *better[1:], 0, 0, *better]
        assert_cells(np.array([row]))
        zeros = [*good, 0, 0, *better, *([0] * ((strings + around) // 4)), 1, *good, 0, 0, *better]
        assert_cells(np.array([zeros]))


def test_a_match_that_is_one_byte_longer_and_farther_away():
    """Behind 1,024 bytes and with 40 in hand, 51 bytes are found at the next byte, and 52 farther away."""
    random = np.random.Generator(np.random.Philox(9))
    for _ in range(20):
        piece, high = random.integers(256, 60_000, 40), 256 * random.integers(1, 200)
        farther = [high + 1, *piece[:12], piece[12] ^ 256]
        nearer = [high + 2, *piece[:12], piece[12] ^ 257]
        in_hand = [high + 3, *piece[:9], piece[9] ^ 257]
        between = [random.integers(1, 60_000, random.integers(20, 120)) for _ in range(4)]
        row = [*farther, *between[0], *nearer, *between[1], *in_hand, *between[2], *random.integers(1, 60_000, 256)]
        assert_cells(np.array([[*row, high + 3, *piece[:20], *between[3]]]))


@pytest.mark.parametrize("zeros", [1022, 1023, 1024, 1025, 1400, 2000])
@pytest.mark.parametrize("count", [1025, 1600, 2040, 2048, 2049, 8191, 8192, 8200])
def test_chains_about_the_longer_limit(count, zeros):
    random = np.random.Generator(np.random.Philox(count + zeros))
    row = np.where(np.arange(count) % (zeros + 7) < zeros, 0, random.integers(0, 300, count))
    assert_cells(np.stack([row, row & 255, np.where(random.random(count) < 0.003, 9, row)]))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("most", [60, 400, 1100, 2100])
def test_many_rows_that_lean_on_cells(most):
    check_kinds(most + 1, 4_000, most)
