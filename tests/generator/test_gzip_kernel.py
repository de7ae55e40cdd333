"""The kernel's sizes are zlib's, on generated rows, on drawn bytes, and at every limit of the format.

The judge is this machine's zlib; where Python is linked with a fork of it, the golden sizes decide alone.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from generator import load_preset, score
from generator.family import family_of
from generator.gzip_kernel import stream_sizes
from generator.score import PROBE_SIZES, gzip_sizes, probe_content, zlib_defines_scores


def by_zlib(rows_NB: np.ndarray) -> np.ndarray:
    return np.array([len(zlib.compress(row, 9, wbits=31)) for row in rows_NB])


def assert_equal(row: np.ndarray) -> None:
    rows = np.ascontiguousarray(row, np.uint8)[None]
    assert stream_sizes(rows)[0] == by_zlib(rows)[0]


needs_madler = pytest.mark.skipif(not zlib_defines_scores(), reason="this Python's zlib is a fork")


def test_golden_sizes():
    assert tuple(int(stream_sizes(a.view(np.uint8))[0]) for a in probe_content()) == PROBE_SIZES


@pytest.fixture
def linked_with_a_fork(monkeypatch):
    """A Python that is linked with zlib-ng, as some distributions have it."""
    monkeypatch.setattr(score, "zlib", zlib_ng)
    zlib_defines_scores.cache_clear()
    yield
    zlib_defines_scores.cache_clear()


@pytest.mark.usefixtures("linked_with_a_fork")
def test_a_fork_of_zlib_changes_no_score():
    assert not zlib_defines_scores()
    assert tuple(int(gzip_sizes(a)[0]) for a in probe_content()) == PROBE_SIZES


@needs_madler
def test_many_rows_are_left_to_the_kernel(monkeypatch):
    assert zlib_defines_scores()  # asks zlib itself
    monkeypatch.setattr(score, "ROWS_BY_ZLIB", 8)
    monkeypatch.setattr(score, "_scored", score._RowCounter())
    monkeypatch.setattr(score, "_kernel_at_hand", lambda: False)
    by_whom = []
    monkeypatch.setattr(score, "zlib_sizes", lambda rows: by_whom.append(len(rows)) or by_zlib(rows))
    rows = np.arange(64, dtype=np.int32).reshape(4, 16)
    found = [gzip_sizes(rows).tolist() for _ in range(4)]
    assert found == 4 * [found[0]]
    assert by_whom == [4, 4]


@needs_madler
def test_a_kernel_that_is_kept_counts_from_the_first_row(monkeypatch):
    rows = np.arange(64, dtype=np.int32).reshape(4, 16)
    expected = by_zlib(rows.view(np.uint8)).tolist()
    stream_sizes(rows.view(np.uint8))  # compiled and kept, if it was not
    score._kernel_is_kept.cache_clear()
    monkeypatch.setattr(score, "_scored", score._RowCounter())
    monkeypatch.setattr(score, "zlib_sizes", lambda rows: pytest.fail(f"{len(rows)} rows were left to zlib"))
    assert gzip_sizes(rows).tolist() == expected


def test_no_rows_have_no_sizes():
    assert gzip_sizes(np.zeros((0, 360), np.int32)).tolist() == []


@needs_madler
@pytest.mark.parametrize("name", ["paper", "code", "tiny"])
def test_generated_rows(name):
    assert_generated(name, 0, 1500)


def generated(name: str, first: int, count: int) -> np.ndarray:
    """The bytes that are scored of a preset's candidates."""
    spec = load_preset(name)
    ids = np.arange(first, first + count, dtype=np.int64)
    content = family_of(spec).simulate(spec, 3, ids, np.zeros_like(ids), "numba").content
    return np.ascontiguousarray(content, "<i4").view(np.uint8)


def assert_generated(name: str, first: int, count: int) -> None:
    rows = generated(name, first, count)
    assert (stream_sizes(rows) == by_zlib(rows)).all()


def adversarial(random: np.random.Generator, most: int = 1 << 15) -> np.ndarray:
    """Bytes that lean on one limit or another: runs, periods near 258 and the window, few or all values, skewed
    frequencies (which overflow code lengths), noise, words at random distances, edits of repeats."""
    length = int(random.integers(0, 2 + int(most ** random.uniform(0.1, 1))))
    kind = random.integers(0, 8)
    if kind == 0:
        runs = random.integers(1, 600, length // 50 + 1)
        row = np.repeat(random.integers(0, random.integers(1, 257), len(runs)), runs)
    elif kind == 1:
        near = random.choice([2, 3, 4, 31, 32, 33, 257, 258, 259, 4095, 4096, 4097, 4098, 32505, 32506, 32507])
        row = np.tile(random.integers(0, 256, near), length // near + 2)
    elif kind == 2:
        row = random.integers(0, random.integers(1, 257), length)
    elif kind == 3:
        row = np.minimum(random.geometric(random.uniform(0.02, 0.9), length), 255)
    elif kind == 4:
        word = random.integers(0, 256, random.integers(3, 9))
        row = random.integers(0, 256, length)
        for at in random.integers(0, max(1, length), length // 40 + 1):
            row[at : at + len(word)] = word[: max(0, length - at)]
    elif kind == 5:
        row = np.concatenate([np.full(1 << k, 17 * k + 1) for k in range(15)])
        random.shuffle(row)
    elif kind == 6:
        row = np.tile(random.integers(0, 4, 1 + length // 7), 8)
        edits = random.integers(0, max(1, len(row)), length // 60 + 1)
        row[edits % len(row)] = random.integers(0, 256, len(edits))
    else:
        tokens = random.integers(0, random.integers(2, 10_000), length // 4 + 1)
        row = tokens.astype("<i4").view(np.uint8)
    return np.asarray(row[:length], np.uint8)


@needs_madler
def test_rows_that_lean_on_the_limits():
    random = np.random.Generator(np.random.Philox(7))
    for _ in range(400):
        assert_equal(adversarial(random))


@needs_madler
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    parts=st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 300)), max_size=12),
    cut=st.integers(0, 1 << 15),
)
def test_drawn_rows(parts, cut):
    assert_equal(np.frombuffer(b"".join(part * times for part, times in parts)[:cut], np.uint8))


LENGTHS = (0, 1, 2, 3, 4, 16_382, 16_383, 16_384, 32_766, 49_149, 65_274, 65_275, 98_304, 200_000)


@needs_madler
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_where_blocks_and_windows_end(length):
    random = np.random.Generator(np.random.Philox(length))
    for most in (1, 2, 16, 256):
        assert_equal(random.integers(0, most, length))
    text = np.tile(random.integers(97, 110, 3000), length // 3000 + 1)[:length]
    assert_equal(np.where(random.random(length) < 0.02, 32, text))


@needs_madler
@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_adversarial_rows():
    random = np.random.Generator(np.random.Philox(11))
    for _ in range(100_000):
        assert_equal(adversarial(random, 4096))


@needs_madler
@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["code", "math", "paper", "tiny", "web-text"])
def test_many_generated_rows(name):
    for first in range(10**9, 10**9 + 200_000, 2_000):
        assert_generated(name, first, 2_000)
