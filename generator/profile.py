"""A spec in numbers: scores, acceptance by band, periods, entropies, and what each stage costs."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from generator.batch import choose_backend
from generator.cost import slice_size
from generator.family import family_of
from generator.registry import GenerationSpec
from generator.score import score_content
from generator.tokens import decode_tokens, unigram_entropy_nats

BIN_EDGES = np.round(np.linspace(0.0, 1.1, 45), 3)
BANDS = ((0.0, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 1.1))


def profile_spec(
    spec: GenerationSpec, seed: int, n: int, *, backend: str = "auto", clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """First candidates (attempt 0, no band applied) of sequences 0 .. n, described by plain numbers (JSON-able).

    Keys: candidates, accepted (share inside the spec's band); histogram of both scores (edges, counts); bands (share of
    candidates per interval); periods (share by least exact period, 1 to 12, of the whole sequence's frames, and "none";
    null for families without frames); entropy_nats (within: mean over sequences of the sequence's own unigrams; across:
    unigrams of all together); tokens_per_s of simulate+tokenise and of score, one thread.
    """
    simulate = partial(family_of(spec).simulate, spec, seed, backend=choose_backend(backend))
    simulate(np.zeros(1, np.int64), np.zeros(1, np.int64))
    described = _Described(spec)
    size = slice_size(spec)
    for start in range(0, n, size):
        ids = np.arange(start, min(start + size, n), dtype=np.int64)
        started = clock()
        made = simulate(ids, np.zeros_like(ids))
        simulated = clock()
        described.add(made.tokens, *score_content(spec, made.content))
        described.seconds += np.array([simulated - started, clock() - simulated])
    ratio, normalized = np.concatenate(described.ratio), np.concatenate(described.normalized)
    scores = {"gzip-int32-v1": ratio, "gzip-int32-v1-normalized": normalized}
    band = spec.accept_band
    inside = (
        None if band is None else float(((scores[band.score] >= band.low) & (scores[band.score] <= band.high)).mean())
    )
    return {
        "candidates": n,
        "accepted": inside,
        "histogram": {
            name: {"edges": BIN_EDGES.tolist(), "counts": np.histogram(values, bins=BIN_EDGES)[0].tolist()}
            for name, values in scores.items()
        },
        "bands": {
            name: {f"{low:g}-{high:g}": float(((values >= low) & (values < high)).mean()) for low, high in BANDS}
            for name, values in scores.items()
        },
        "periods": described.period_shares(),
        "entropy_nats": {"within": described.within / n, "across": described.across()},
        "tokens_per_s": {
            "simulate+tokenise": n * spec.seq_len / described.seconds[0],
            "score": n * spec.seq_len / described.seconds[1],
        },
    }


class _Described:
    """What a profile remembers of candidates that it has seen: numbers, never their tokens."""

    def __init__(self, spec: GenerationSpec) -> None:
        self._spec = spec
        self.ratio: list[np.ndarray] = []
        self.normalized: list[np.ndarray] = []
        self.within = 0.0
        self.seconds = np.zeros(2)
        self._counts = np.zeros(spec.vocab_size, np.int64)
        self._periods = np.zeros(13, np.int64)

    def add(self, tokens_NT: np.ndarray, ratio_N: np.ndarray, normalized_N: np.ndarray) -> None:
        """Take in a slice: tokens uint16 [N, seq_len] and both scores [N]."""
        self.ratio.append(ratio_N)
        self.normalized.append(normalized_N)
        self._counts += np.bincount(tokens_NT.reshape(-1), minlength=len(self._counts))
        for row in tokens_NT:
            self.within += unigram_entropy_nats(row)
            if self._spec.frames_of is not None:
                self._periods[_least_period(decode_tokens(self._spec, row))] += 1

    def across(self) -> float:
        """Entropy in nats of the unigrams of all sequences together."""
        share = self._counts[self._counts > 0] / self._counts.sum()
        return float(-np.sum(share * np.log(share)))

    def period_shares(self) -> dict[str, float] | None:
        """Share of sequences by least exact period of their frames ("1" is a fixed point), "none" for the rest."""
        if self._spec.frames_of is None:
            return None
        shares = self._periods / self._periods.sum()
        return {**{str(period): float(shares[period]) for period in range(1, 13)}, "none": float(shares[0])}


def _least_period(frames: np.ndarray) -> int:
    """The least exact period, at most 12, of frames [F, *grid]; 0 if there is none."""
    flat = frames.reshape(len(frames), -1)
    for period in range(1, min(13, len(flat))):
        if (flat[period:] == flat[:-period]).all():
            return period
    return 0
