"""Family `linear-rnn`: sequences sampled from random stable linear recurrent networks with a random read-out.

After arXiv 2605.10129 and its published code. With hidden state h (H numbers, at first 0) and a uniformly drawn token x
that is not shown,

    h <- A[:, x] + W h;  x ~ softmax(C h / temperature)

for each token. A, W and C are independent normal matrices, drawn once for `sequences_per_network` sequences (published:
100); W is scaled to spectral radius `radius` (0.9), C to variance 1/H. The published A has variance 1/V for a
vocabulary of V; ours has variance 1. Because the logits are linear in A, the published network is this one with
temperature sqrt(V), whose logits have a standard deviation of about 2.3 / sqrt(V): at V = 50,277 that is 0.01, all but
uniform noise. At temperature 1 the network's past is seen in its tokens.

All of it is integer arithmetic. Entries are WEIGHT_Q (a normal truncated at two sigma, 31.5 steps a sigma) at bytes of
the RULE stream: W row by row, A token by token, C token by token. States are in units of 2^-16, held within ±128, which
a stable network does not reach. The radius is measured by power iteration from all ones, as published, but as the
geometric mean of the growth over steps 17 to 48, because the growth of one step swings where the largest eigenvalues
are a complex pair. Logits are rounded to whole 64ths below the greatest; a token's weight is then exp in units of
2^-16, so what is 11.8 below the greatest has probability 0. Word 0 of the SYMBOLS stream draws the first token, word t
the t-th.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field

from generator import philox
from generator.families.drawing import compiled, draw_words
from generator.nca.rules import rule_address
from generator.spec import SequenceSpec, Simulated
from generator.tables import WEIGHT_Q, WEIGHT_STEPS

FRACTION = 16  # bits after the point of states and growths
STATE_LIMIT = 128 << FRACTION
UNMEASURED, MEASURED = 16, 32  # steps of power iteration: first unmeasured, then measured
GAIN_BITS = 24
LOGIT_BITS = 20
EXP_STEP = 1_057_095_000  # round(2^30 exp(-1/64))


class LinearRnnSpec(SequenceSpec):
    """Sizes and temperature of the networks, and how many sequences share one."""

    family: Literal["linear-rnn"] = "linear-rnn"
    vocabulary: int = Field(default=64, ge=2, le=16_384)
    hidden: int = Field(default=16, ge=1, le=64)
    radius: float = Field(default=0.9, gt=0.0, lt=1.0)
    temperature: float = Field(default=1.0, ge=0.05, le=1000.0)
    burn_in: int = Field(default=0, ge=0, le=10_000)
    sequences_per_network: int = Field(default=1, ge=1, le=4096)

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def words(self) -> int:
        return 1 + self.burn_in + self.seq_len

    @property
    def weights(self) -> int:
        """Entries of W, A and C together."""
        return self.hidden * (self.hidden + 2 * self.vocabulary)

    @property
    def operations(self) -> int:
        steps = UNMEASURED + MEASURED + self.burn_in + self.seq_len
        return super().operations + 20 * self.weights + 2 * self.hidden * (self.hidden + self.vocabulary) * steps

    @property
    def rule_group(self) -> int:
        return self.sequences_per_network

    @property
    def logit_gain(self) -> int:
        """64 / (WEIGHT_STEPS sqrt(H) temperature), in units of 2^-LOGIT_BITS and at least one of them."""
        return max(1, int(64 * 2**LOGIT_BITS / (WEIGHT_STEPS * math.sqrt(self.hidden) * self.temperature)))


@lru_cache(maxsize=1)
def exp_table() -> np.ndarray:
    """floor(2^16 exp(-k/64)) for k from 0 to where it is 0, int64, by repeated multiplication in integers."""
    found, value = [], 1 << 30
    while value >> 14:
        found.append(value >> 14)
        value = (value * EXP_STEP) >> 30
    return np.array([*found, 0], dtype=np.int64)


def square_roots(values: np.ndarray) -> np.ndarray:
    """The integer parts of the square roots of integers below 2^62: those of floats, put right."""
    roots = np.sqrt(values.astype(np.float64)).astype(np.int64)
    roots -= roots * roots > values
    return roots + ((roots + 1) * (roots + 1) <= values)


def measure_growth(w_GHH: np.ndarray) -> np.ndarray:
    """The spectral radius of each integer matrix int64 [G, H, H], in units of 2^-16: int64 [G]."""
    state_GH = np.full(w_GHH.shape[:2], 1 << 12, np.int64)
    growths = []
    for step in range(UNMEASURED + MEASURED):
        after_GH = np.einsum("gij,gj->gi", w_GHH, state_GH)
        if step >= UNMEASURED:
            before_G, after_G = (square_roots((x * x).sum(axis=1)) for x in (state_GH, after_GH))
            growths.append((after_G << FRACTION) // np.maximum(1, before_G))
        most_G1 = np.maximum(1, np.abs(after_GH).max(axis=1, keepdims=True))
        state_GH = (after_GH << 12) // most_G1
    while len(growths) > 1:
        growths = [square_roots(one * other) for one, other in zip(growths[::2], growths[1::2], strict=True)]
    return growths[0]


def sample(
    q_GW: np.ndarray,
    gain_G: np.ndarray,
    network_N: np.ndarray,
    words_NW: np.ndarray,
    exp_K: np.ndarray,
    hidden: int,
    logit_gain: int,
    burn_in: int,
    tokens_NT: np.ndarray,
) -> None:
    """Fill tokens from weights int64 [G, H H + 2 V H], what W is multiplied by in units of 2^-24, each sequence's
    network, and words [N, 1 + burn_in + T]. The text that numba compiles; `sample_reference` is what it must equal."""
    vocabulary = (q_GW.shape[1] - hidden * hidden) // (2 * hidden)
    state = np.zeros(hidden, np.int64)
    after = np.zeros(hidden, np.int64)
    weights_V = np.zeros(vocabulary, np.int64)
    for n in range(tokens_NT.shape[0]):
        q_W = q_GW[network_N[n]]
        w_HH = q_W[: hidden * hidden].reshape(hidden, hidden)
        a_VH = q_W[hidden * hidden : hidden * hidden + vocabulary * hidden].reshape(vocabulary, hidden)
        c_VH = q_W[hidden * hidden + vocabulary * hidden :].reshape(vocabulary, hidden)
        gain = gain_G[network_N[n]]
        state[:] = 0
        token = (np.int64(words_NW[n, 0]) * vocabulary) >> 32
        for t in range(burn_in + tokens_NT.shape[1]):
            for i in range(hidden):
                total = 0
                for j in range(hidden):
                    total += w_HH[i, j] * state[j]
                # WEIGHT_STEPS is 63/2: an entry of A in units of 2^-16.
                value = (a_VH[token, i] << (FRACTION + 1)) // 63 + ((total * gain) >> GAIN_BITS)
                after[i] = min(max(value, -STATE_LIMIT), STATE_LIMIT)
            greatest = -(1 << 62)
            for v in range(vocabulary):
                total = 0
                for j in range(hidden):
                    total += c_VH[v, j] * after[j]
                weights_V[v] = total
                greatest = max(greatest, total)
            whole = 0
            for v in range(vocabulary):
                below = ((greatest - weights_V[v]) * logit_gain) >> (FRACTION + LOGIT_BITS)
                weights_V[v] = exp_K[min(below, exp_K.shape[0] - 1)]
                whole += weights_V[v]
            left = (np.int64(words_NW[n, 1 + t]) * whole) >> 32
            token = 0
            while left >= weights_V[token]:
                left -= weights_V[token]
                token += 1
            state[:] = after
            if t >= burn_in:
                tokens_NT[n, t - burn_in] = token


def sample_reference(
    q_GW: np.ndarray,
    gain_G: np.ndarray,
    network_N: np.ndarray,
    words_NW: np.ndarray,
    exp_K: np.ndarray,
    hidden: int,
    logit_gain: int,
    burn_in: int,
    tokens_NT: np.ndarray,
) -> None:
    """What `sample` does, all sequences at once: the definition."""
    count, square = len(tokens_NT), hidden * hidden
    q_NW = q_GW[network_N]
    w_NHH = q_NW[:, :square].reshape(count, hidden, hidden)
    a_NVH, c_NVH = np.split(q_NW[:, square:].reshape(count, -1, hidden), 2, axis=1)
    token_N = (words_NW[:, 0].astype(np.int64) * a_NVH.shape[1]) >> 32
    state_NH = np.zeros((count, hidden), np.int64)
    for t in range(burn_in + tokens_NT.shape[1]):
        kept_NH = (np.einsum("nij,nj->ni", w_NHH, state_NH) * gain_G[network_N, None]) >> GAIN_BITS
        read_NH = (a_NVH[np.arange(count), token_N] << (FRACTION + 1)) // 63
        state_NH = np.clip(read_NH + kept_NH, -STATE_LIMIT, STATE_LIMIT)
        logits_NV = np.einsum("nvj,nj->nv", c_NVH, state_NH)
        below_NV = ((logits_NV.max(axis=1, keepdims=True) - logits_NV) * logit_gain) >> (FRACTION + LOGIT_BITS)
        upto_NV = np.cumsum(exp_K[np.minimum(below_NV, len(exp_K) - 1)], axis=1)
        left_N = (words_NW[:, 1 + t].astype(np.int64) * upto_NV[:, -1]) >> 32
        token_N = (left_N[:, None] >= upto_NV).sum(axis=1)
        if t >= burn_in:
            tokens_NT[:, t - burn_in] = token_N


def simulate(spec: LinearRnnSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence)."""
    address_N2 = np.stack(rule_address(spec, ids_N, attempts_N), axis=1)
    drawn_G2, network_N = np.unique(address_N2, axis=0, return_inverse=True)
    stream = philox.stream_bytes(seed, philox.RULE, drawn_G2[:, 0], drawn_G2[:, 1], spec.weights)
    q_GW = WEIGHT_Q[stream].astype(np.int64)
    words = draw_words(spec, seed, ids_N, attempts_N)
    tokens = np.empty((len(ids_N), spec.seq_len), spec.token_dtype)
    growth_G = measure_growth(q_GW[:, : spec.hidden**2].reshape(-1, spec.hidden, spec.hidden))
    gain_G = np.minimum((int(spec.radius * 2**FRACTION) << GAIN_BITS) // np.maximum(1, growth_G), 1 << GAIN_BITS)
    run = sample_reference if backend == "reference" else compiled(sample)
    run(q_GW, gain_G, network_N.ravel(), words, exp_table(), spec.hidden, spec.logit_gain, spec.burn_in, tokens)
    return Simulated(tokens, tokens.astype(np.int32))
