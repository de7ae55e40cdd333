"""Philox 4x32-10, addressed so that no value depends on batch, order or machine.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

Layout of one call (all words are 32 bits):

    key      = (seed mod 2**32, seed div 2**32)
    counter  = (block, attempt * 256 + purpose, id mod 2**32, id div 2**32)

`id` is the sequence id, or the rule group's id for the purpose RULE; `attempt` counts redraws of that sequence (or
rule). A stream is the concatenation of the four output words of block 0, 1, 2, ...; a byte stream takes each word
little-endian. So word w of a stream is word w % 4 of block w // 4, and byte b is byte b % 4 of word b // 4.
"""

import numpy as np

RULE, COLOR_LOGITS, CELLS, NOISE, SHUFFLE, SYMBOLS, REFERENCE = range(7)

MAX_ATTEMPT = 1 << 24

MUL_0, MUL_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox_blocks(key: tuple[int, int], counter: tuple[np.ndarray, ...]) -> np.ndarray:
    """Four uint32 words for each counter; `counter` is four arrays that broadcast to shape S, the result is [*S, 4]."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in np.broadcast_arrays(*counter))
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = np.uint64(MUL_0) * c0, np.uint64(MUL_1) * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _32) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + WEYL_0) & 0xFFFFFFFF, (k1 + WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(seed: int, purpose: int, ids_N: np.ndarray, attempts_N: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """Words first .. first + count of each sequence's stream, uint32 [N, count]; `first` is a multiple of 4."""
    ids = np.asarray(ids_N, dtype=np.uint64)[:, None]
    address = np.asarray(attempts_N, dtype=np.uint64)[:, None] * np.uint64(256) + np.uint64(purpose)
    blocks = np.arange(first // 4, (first + count + 3) // 4, dtype=np.uint64)[None, :]
    out = philox_blocks((seed & 0xFFFFFFFF, seed >> 32), (blocks, address, ids & _LOW, ids >> _32))
    return out.reshape(len(ids), -1)[:, :count]


def stream_bytes(seed: int, purpose: int, ids_N: np.ndarray, attempts_N: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bytes of each sequence's stream, uint8 [N, count]."""
    out = words(seed, purpose, ids_N, attempts_N, (count + 3) // 4)
    return np.ascontiguousarray(out.astype("<u4")).view(np.uint8)[:, :count]


def below(words_S: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Map uint32 words to integers in [0, bound): the high half of word * bound (bias below bound / 2**32)."""
    return ((words_S.astype(np.uint64) * np.asarray(bound, dtype=np.uint64)) >> _32).astype(np.int64)
