"""How compressible a corpus is, by the measure that specs' bands are given in, so that one can be chosen by the other.

The paper (arXiv 2603.10055) finds that the best band depends on the text: the closer their complexity, the better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datalake import DatasetReader, Lake
from generator import list_presets, load_preset
from generator.score import byte_sizes, gzip_sizes, reference_scores
from orchestration.corpus.tokenizers import load_tokenizer
from orchestration.errors import CorpusError

# Deflate looks back 32 KiB; stretches many times longer measure the text and not the stretch.
STRETCH_BYTES = 1 << 20
STRETCHES = 16

# As many tokens as a band's score is taken over at the published defaults: 10 frames of 36 patches.
SCORED_TOKENS = 360


@dataclass(frozen=True)
class CorpusProfile:
    """``gzip_text``: gzip level 9 of the text, compressed by raw bytes, over ``stretches`` of up to 1 MiB. ``scores``:
    mean of each score definition over ``rows`` rows, taken on their first ``SCORED_TOKENS`` tokens."""

    dataset: str
    gzip_text: float
    stretches: int
    scores: dict[str, float]
    rows: int


def profile_corpus(lake: Lake, reference: str) -> CorpusProfile:
    """Measure the text dataset ``reference`` ("NAME@VERSION"); CorpusError for a synthetic one or rows too short."""
    version = lake.datasets.usable(reference)
    manifest = lake.datasets.manifest(version)
    if manifest.kind != "text" or "tokenizer" not in manifest.source.spec:
        raise CorpusError(
            f"dataset: {version.ref} is no text with a known tokenizer; `morphogen profile` measures a spec's sequences"
        )
    if manifest.seq_len < SCORED_TOKENS:
        raise CorpusError(
            f"dataset: {version.ref} has rows of {manifest.seq_len} tokens, and {SCORED_TOKENS} are scored; "
            "add the corpus with a larger seq_len"
        )
    tokenizer = load_tokenizer(lake.store, manifest.source.spec)
    reader = DatasetReader(lake.store, manifest)
    bytes_per_row = max(1, (manifest.text_bytes or 0) // manifest.sequences)
    length = min(manifest.sequences, -(-STRETCH_BYTES // bytes_per_row))
    stretches = min(STRETCHES, manifest.sequences // length)
    ratios, scored = [], []
    for stretch in range(stretches):
        first = stretch * (manifest.sequences - length) // max(1, stretches - 1)
        tokens_NT = reader.rows(np.arange(first, first + length))
        text = b"".join(tokenizer.decode(tokens_NT.ravel()))
        ratios.append(int(byte_sizes(np.frombuffer(text, np.uint8)[None])[0]) / len(text))
        scored.append(gzip_sizes(tokens_NT[:, :SCORED_TOKENS]) / (4.0 * SCORED_TOKENS))
    ratio_N = np.concatenate(scored)
    flat, noise = reference_scores(SCORED_TOKENS, manifest.vocab_size)
    scores = {
        "gzip-int32-v1": float(ratio_N.mean()),
        "gzip-int32-v1-normalized": float((ratio_N.mean() - flat) / (noise - flat)),
    }
    return CorpusProfile(version.ref, float(np.mean(ratios)), stretches, scores, len(ratio_N))


def known_bands(lake: Lake) -> list[tuple[str, dict[str, Any]]]:
    """(name, band) of every preset and of the newest version of every parameter set that has one."""
    specs = {name: load_preset(name).model_dump(mode="json") for name in list_presets()}
    specs |= {version.ref: version.spec for version in lake.params.list()}
    return [(name, spec["band"]) for name, spec in specs.items() if spec.get("band")]
