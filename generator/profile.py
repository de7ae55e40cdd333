"""A spec in numbers: scores, acceptance by band, periods, entropies, and what each stage costs."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from generator.batch import choose_backend
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
    ids, attempts = np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    simulate = partial(family_of(spec).simulate, spec, seed, backend=choose_backend(backend))
    simulate(ids[:1], attempts[:1])
    started = clock()
    made = simulate(ids, attempts)
    simulated = clock()
    ratio, normalized = score_content(spec, made.content)
    scored = clock()
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
        "periods": _period_shares(spec, made.tokens),
        "entropy_nats": {
            "within": unigram_entropy_nats(made.tokens),
            "across": unigram_entropy_nats(made.tokens.reshape(-1)),
        },
        "tokens_per_s": {
            "simulate+tokenise": n * spec.seq_len / (simulated - started),
            "score": n * spec.seq_len / (scored - simulated),
        },
    }


def _period_shares(spec: GenerationSpec, tokens_NT: np.ndarray) -> dict[str, float] | None:
    """Share of sequences by least exact period of their frames ("1" is a fixed point), "none" for the rest."""
    if spec.frames_of is None:
        return None
    frames = np.stack([decode_tokens(spec, row) for row in tokens_NT])
    flat = frames.reshape(*frames.shape[:2], -1)
    least = np.zeros(len(flat), dtype=np.int64)
    for period in range(min(12, flat.shape[1] - 1), 0, -1):
        repeats = (flat[:, period:] == flat[:, :-period]).all(axis=(1, 2))
        least[repeats] = period
    found = {str(period): float((least == period).mean()) for period in range(1, 13)}
    return {**found, "none": float((least == 0).mean())}
