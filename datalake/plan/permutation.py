"""A seeded pseudo-random permutation of 0 … n-1, evaluated at any position in O(1): nothing is stored or shuffled.

A balanced Feistel network (Luby and Rackoff, 1988) permutes the smallest domain of 2^(2h) values that holds n, and
cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002) brings what falls outside n back in;
the domain is less than 4n, so a walk takes under four rounds on average. Round function: the 64-bit finaliser known
as splitmix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). Only wrapping uint64
arithmetic is used, so every machine computes the same order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

U64 = NDArray[np.uint64]
_ROUNDS = 8
_GOLDEN: U64 = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)  # an array: numpy warns when a scalar wraps


def mix(values: U64) -> U64:
    """A bijective scrambling of uint64 values (any shape)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def derive_key(seed: int, *parts: ArrayLike) -> U64:
    """uint64 keys (the broadcast shape of ``parts``, at least 1-D) that depend on the seed and every part in order."""
    key = mix(np.atleast_1d(np.asarray(seed, dtype=np.uint64)) + _GOLDEN)
    for part in parts:
        key = mix((key ^ mix(np.atleast_1d(np.asarray(part)).astype(np.uint64) + _GOLDEN)) + _GOLDEN)
    return key


def permute(positions: ArrayLike, size: ArrayLike, key: ArrayLike) -> NDArray[np.int64]:
    """Images of ``positions`` under the permutation of 0 … size-1 chosen by ``key``.

    ``positions`` int64 [N], each below its ``size``; ``size`` (1 to 2^52) and ``key`` (uint64) are [N] or [1].
    Returns int64 [N].
    """
    value = np.atleast_1d(np.asarray(positions)).astype(np.uint64)
    limit = np.broadcast_to(np.atleast_1d(np.asarray(size)).astype(np.uint64), value.shape)
    keys = np.broadcast_to(np.atleast_1d(np.asarray(key, dtype=np.uint64)), value.shape)
    bits = np.frexp((limit - np.uint64(1)).astype(np.float64))[1]  # bit length, exact below 2^53
    half = np.maximum((bits + 1) // 2, 1).astype(np.uint64)
    value = _feistel(value, half, keys)
    outside = np.flatnonzero(value >= limit)
    while outside.size:  # ends: a permutation's cycle comes back to where it started, which is inside
        value[outside] = _feistel(value[outside], half[outside], keys[outside])
        outside = outside[value[outside] >= limit[outside]]
    return value.astype(np.int64)


def _feistel(value: U64, half: U64, key: U64) -> U64:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for turn in range(_ROUNDS):
        scrambled: U64 = mix(right + key + np.uint64(turn + 1) * _GOLDEN) >> (np.uint64(64) - half)
        left, right = right, left ^ scrambled
    return (left << half) | right
