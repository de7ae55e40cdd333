"""Philox against the known answers of its authors' library, and its streams' addressing."""

import numpy as np
import pytest

from generator import philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, expected):
    words = philox.philox_blocks(key, tuple(np.array([c]) for c in counter))
    assert tuple(words[0].tolist()) == expected


def test_a_stream_read_in_parts_is_the_stream():
    ids, attempts = np.array([0, 5, 1 << 40]), np.array([0, 3, 9])
    whole = philox.words(11, philox.CELLS, ids, attempts, 50)
    assert (philox.words(11, philox.CELLS, ids, attempts, 10, first=8) == whole[:, 8:18]).all()
    assert (philox.stream_bytes(11, philox.CELLS, ids, attempts, 9) == whole.astype("<u4").view(np.uint8)[:, :9]).all()


def test_streams_differ_by_every_part_of_the_address():
    base = philox.words(1, philox.RULE, np.array([2]), np.array([3]), 4)
    for seed, purpose, number, attempt in [
        (2, philox.RULE, 2, 3),
        (1 + (1 << 32), philox.RULE, 2, 3),
        (1, philox.CELLS, 2, 3),
        (1, philox.RULE, 3, 3),
        (1, philox.RULE, 2 + (1 << 32), 3),
        (1, philox.RULE, 2, 4),
    ]:
        assert (philox.words(seed, purpose, np.array([number]), np.array([attempt]), 4) != base).any()
