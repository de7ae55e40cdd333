"""Held-out loss, and the gate: was the synthetic task learned at all?

The first N rows of a dataset are scored, always the same ones, shared out over the ranks in contiguous parts. Sums are
kept in float64 and added over ranks, so the result is the same on all of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trainer.data import TrainDataset
from trainer.loss import token_scores
from trainer.model import Llama
from trainer.precision import Precision, autocast
from trainer.ranks import Ranks

CURVE_BUCKETS = 16
ROWS_PER_PASS = 16


def unigram_entropy(tokens_BT: np.ndarray) -> np.ndarray:
    """Entropy of each row's own token frequencies, float64 [B], in nats: log T - (1/T) Σ c log c over its counts c.

    It is what a model pays that knows how often each token will occur in a sequence but not where.
    """
    ordered_BT = np.sort(tokens_BT, axis=1)
    length = ordered_BT.shape[1]
    entropies = np.empty(len(ordered_BT))
    for index, row_T in enumerate(ordered_BT):
        starts = np.flatnonzero(np.concatenate(([True], row_T[1:] != row_T[:-1])))
        counts = np.diff(np.append(starts, length)).astype(np.float64)
        entropies[index] = math.log(length) - (counts * np.log(counts)).sum() / length
    return entropies


def bucket_edges(length: int) -> list[int]:
    """Edges of at most ``CURVE_BUCKETS`` near-equal stretches of ``length`` positions: [0, …, length]."""
    buckets = min(CURVE_BUCKETS, length)
    return [index * length // buckets for index in range(buckets + 1)]


def evaluate(
    model: Llama, dataset: TrainDataset, sequences: int, precision: Precision, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """Score the first ``sequences`` rows (or all, if fewer); a JSON-able dict, equal on every rank.

    Keys: ``sequences``, ``tokens`` (predicted ones), ``loss`` (nats per token), ``perplexity``, ``accuracy`` (likeliest
    next token), ``curve`` (loss by position of the predicted token: [{"from", "to", "loss"}], ``to`` exclusive).
    Text adds ``bytes`` and ``bits_per_byte`` = total nats / ln 2 / UTF-8 bytes of the predicted tokens. Synthetic data
    adds ``gate``: {"loss", "entropy", "passed"}, entropy being the rows' mean unigram entropy over the same tokens.
    """
    manifest = dataset.manifest
    total = min(sequences, manifest.sequences)
    mine = np.arange(ranks.rank * total // ranks.world, (ranks.rank + 1) * total // ranks.world)
    length = manifest.seq_len - 1
    edges = bucket_edges(length)
    reader = dataset.reader()
    text = manifest.kind == "text"
    curve_sums, hits, extra = np.zeros(len(edges) - 1), 0.0, 0.0

    for start in range(0, len(mine), ROWS_PER_PASS):
        rows = mine[start : start + ROWS_PER_PASS]
        tokens_BT = reader.rows(rows)
        losses_BT, hits_BT = score(model, tokens_BT, precision, device)
        curve_sums += np.add.reduceat(losses_BT.sum(axis=0), edges[:-1])
        hits += hits_BT.sum()
        extra += float(reader.column("target_bytes", rows).sum() if text else unigram_entropy(tokens_BT[:, 1:]).sum())

    *curve, hits, extra = ranks.sum([*curve_sums.tolist(), float(hits), extra])
    nats, tokens = math.fsum(curve), total * length
    loss = nats / tokens
    result: dict[str, Any] = {
        "sequences": total,
        "tokens": tokens,
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": hits / tokens,
        "curve": [
            {"from": low + 1, "to": high + 1, "loss": value / (total * (high - low))}
            for low, high, value in zip(edges, edges[1:], curve, strict=False)
        ],
    }
    if text:
        result |= {"bytes": int(extra), "bits_per_byte": nats / math.log(2) / extra}
    else:
        entropy = extra / total
        result["gate"] = {"loss": loss, "entropy": entropy, "passed": bool(loss < entropy)}
    return result


@torch.no_grad()
def score(
    model: Llama, tokens_BT: np.ndarray, precision: Precision, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Loss float64 [B, T-1] and correctness bool [B, T-1] of each next token, of tokens uint16 or int64 [B, T]."""
    tokens = torch.from_numpy(tokens_BT.astype(np.int64)).to(device)
    with autocast(precision, device):
        hidden_ND = model.model(tokens[:, :-1]).flatten(0, 1)
        losses_N, hits_N = token_scores(hidden_ND, model.lm_head.weight, tokens[:, 1:].flatten())
    shape = (tokens.shape[0], tokens.shape[1] - 1)
    return losses_N.double().cpu().numpy().reshape(shape), hits_N.cpu().numpy().reshape(shape)
