"""Held-out loss, and the gate: was the synthetic task learned at all?

The first N rows of a dataset are scored, always the same ones, shared out over the ranks in contiguous parts. Sums are
kept in float64 and added over ranks, so the result is the same on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from datalake import Manifest, RowReader
from datalake.shards.roles import has_roles
from generator import answer_mask
from trainer.data import TrainDataset
from trainer.documents import numbered
from trainer.ensemble import Ensemble
from trainer.evaluate_roles import RoleSums, role_scores
from trainer.gate import MASSES, counting_losses, least_loss, unigram_entropy
from trainer.mask import LossMask, dataset_mask, frame_tokens, spec_of
from trainer.model import Llama
from trainer.precision import Precision, autocast
from trainer.ranks import Ranks

CURVE_BUCKETS = 16
ROWS_PER_PASS = 16


def bucket_edges(length: int) -> list[int]:
    """Edges of at most ``CURVE_BUCKETS`` near-equal ranges of ``length`` positions: [0, …, length]."""
    buckets = min(CURVE_BUCKETS, length)
    return [index * length // buckets for index in range(buckets + 1)]


def evaluate(
    model: Llama,
    dataset: TrainDataset,
    sequences: int,
    precision: Precision,
    device: torch.device,
    ranks: Ranks,
    mask: LossMask = "none",
    end_of_text: int | None = None,
    ensemble: Ensemble | None = None,
) -> dict[str, Any]:
    """Score the first ``sequences`` rows (or all, if fewer); a JSON-able dict, equal on every rank.

    With ``end_of_text``, the token that ends a document, attention stays within documents (see ``trainer.documents``).
    What is scored is ``model``, or an ``ensemble`` of its weights.

    Keys: ``sequences``, ``tokens`` (predictions that count under ``mask``, as in training), ``loss`` (nats per counted
    token), ``perplexity``, ``accuracy`` (likeliest next token), ``curve`` (loss by position of the predicted token,
    counted or not: [{"from", "to", "loss"}], ``to`` exclusive). Text adds ``bytes`` and ``bits_per_byte`` = total nats
    / ln 2 / UTF-8 bytes of the predicted tokens, unless it was imported without them. Synthetic data adds ``gate``:
    {"loss", "entropy", "passed"}, entropy being the rows' mean unigram entropy over the same tokens, which the loss
    must be under; of data without frames also "counting", what counting costs there, which takes entropy's place
    (``trainer.gate``). Frames add ``frames``: the loss of each whole frame's content, which falls from frame to frame
    where rules are inferred in context. A task's dataset adds ``answers``: {"tokens", "loss", "accuracy"} of its
    answers alone, whatever counts; so do prompts and answers, with "answers", how many there are, and "whole", the
    share of them that is predicted right from the first token to the last. Their padding is in no score, nor are
    bytes where answers alone count.
    """
    total = min(sequences, dataset.manifest.sequences)
    mine = np.arange(ranks.rank * total // ranks.world, (ranks.rank + 1) * total // ranks.world)
    # Ranks that share a model's rows need each other in every pass: all make as many as the one with the most rows.
    most = -(-total // ranks.world)
    passes = -(-most // _rows_per_pass(dataset, ensemble))
    sums = row_sums(model, dataset, mine, precision, device, mask, end_of_text, passes, ensemble)
    return scores_of(dataset, ranks.sum(sums), total, mask)


def row_sums(
    model: Llama,
    dataset: TrainDataset,
    rows_N: np.ndarray,
    precision: Precision,
    device: torch.device,
    mask: LossMask = "none",
    end_of_text: int | None = None,
    passes: int | None = None,
    ensemble: Ensemble | None = None,
) -> list[float]:
    """Sums over rows, which add up over parts of a dataset: loss by position [T-1], counted hits, hits of answers, and
    the bytes of text or the entropies of rows; others of rows with roles. ``passes`` through the model are made, as
    many as needed by default."""
    reader = dataset.reader()
    sums: _PositionSums | RoleSums = (RoleSums if reader.has_roles else _PositionSums)(dataset.manifest, mask)
    at_once = _rows_per_pass(dataset, ensemble)
    for start in range(0, at_once * (passes or -(-len(rows_N) // at_once)), at_once):
        rows = rows_N[start : start + at_once]
        if not len(rows):
            score(model, np.zeros((1, 2), dtype=np.uint16), precision, device, ensemble=ensemble)
            continue
        tokens_BT = reader.rows(rows)
        sums.add(reader, rows, tokens_BT, *score(model, tokens_BT, precision, device, end_of_text, ensemble))
    return sums.values()


class _PositionSums:
    """The sums of rows in which what counts goes by position."""

    def __init__(self, manifest: Manifest, mask: LossMask) -> None:
        self._manifest = manifest
        self._counted_T, self._answers_T = dataset_mask(manifest, mask), _answers(manifest)
        self._losses_T, self._hits, self._right = np.zeros(len(self._counted_T)), 0.0, 0.0
        self._by_counting = _by_counting(manifest)
        self._extra_N = np.zeros(1 + len(MASSES) if self._by_counting else 1)

    def add(
        self, reader: RowReader, rows: np.ndarray, tokens_BT: np.ndarray, losses_BT: np.ndarray, hits_BT: np.ndarray
    ) -> None:
        counted_T, answers_T = self._counted_T, self._answers_T
        self._losses_T += losses_BT.sum(axis=0)
        self._hits += hits_BT[:, counted_T].sum()
        self._right += 0.0 if answers_T is None else hits_BT[:, answers_T].sum()
        if self._manifest.text_bytes is not None:
            self._extra_N += float(reader.column("target_bytes", rows).sum())
        elif self._manifest.kind != "text":
            self._extra_N[0] += float(unigram_entropy(tokens_BT[:, 1:][:, counted_T]).sum())
        if self._by_counting:
            self._extra_N[1:] += counting_losses(tokens_BT, counted_T, self._manifest.vocab_size).sum(axis=0)

    def values(self) -> list[float]:
        return [*self._losses_T.tolist(), float(self._hits), float(self._right), *self._extra_N.tolist()]


def _rows_per_pass(dataset: TrainDataset, ensemble: Ensemble | None) -> int:
    return ROWS_PER_PASS if ensemble is None else ensemble.rows(dataset.manifest.seq_len, ROWS_PER_PASS)


def _by_counting(manifest: Manifest) -> bool:
    """Whether what a dataset's gate asks for is a loss under that of counting."""
    return manifest.kind == "synthetic" and frame_tokens(manifest.source.spec) is None


def _answers(manifest: Manifest) -> np.ndarray | None:
    asked = answer_mask(spec_of(manifest))
    return None if asked is None else asked[1:]


def scores_of(dataset: TrainDataset, sums: Sequence[float], total: int, mask: LossMask = "none") -> dict[str, Any]:
    """What `evaluate` gives, of the sums over the first ``total`` rows."""
    manifest = dataset.manifest
    if has_roles(manifest):
        return role_scores(sums, total, mask, bucket_edges(manifest.seq_len - 1))
    text, bytes_known = manifest.kind == "text", manifest.text_bytes is not None
    frame = None if text else frame_tokens(manifest.source.spec)
    counted_T, answers_T = dataset_mask(manifest, mask), _answers(manifest)
    length, counted = len(counted_T), int(counted_T.sum())
    hits, right, extra, *counting = sums[length:]
    losses_T = np.array(sums[:length]) / total
    loss = math.fsum(losses_T[counted_T]) / counted
    edges = bucket_edges(length)
    result: dict[str, Any] = {
        "sequences": total,
        "tokens": total * counted,
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": hits / (total * counted),
        "curve": [
            {"from": low + 1, "to": high + 1, "loss": float(losses_T[low:high].mean())} for low, high in pairwise(edges)
        ],
    }
    if answers_T is not None:
        result["answers"] = {
            "tokens": total * int(answers_T.sum()),
            "loss": math.fsum(losses_T[answers_T]) / int(answers_T.sum()),
            "accuracy": right / (total * int(answers_T.sum())),
        }
    if bytes_known:
        result["bytes"] = int(extra)
        if extra:  # rows of nothing but ends of texts stand for no bytes
            result["bits_per_byte"] = loss * total * counted / math.log(2) / extra
    elif not text:
        result["gate"] = gate = {"loss": loss, "entropy": extra / total}
        if counting:
            gate["counting"] = least_loss(counting, total)
        gate["passed"] = bool(loss < gate.get("counting", gate["entropy"]))
        if frame is not None:
            result["frames"] = by_frame(losses_T, frame)
    return result


def by_frame(losses_T: np.ndarray, frame: int) -> list[float]:
    """Mean loss of the content tokens of each whole frame, the first among them; ``losses_T[t]`` is token t+1's."""
    whole = (len(losses_T) + 1) // frame
    return [float(losses_T[at * frame : (at + 1) * frame - 2].mean()) for at in range(whole)]


@torch.no_grad()
def score(
    model: Llama,
    tokens_BT: np.ndarray,
    precision: Precision,
    device: torch.device,
    end_of_text: int | None = None,
    ensemble: Ensemble | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss float64 [B, T-1] and correctness bool [B, T-1] of each next token, of unsigned or int64 tokens [B, T]."""
    tokens = torch.from_numpy(tokens_BT.astype(np.int64)).to(device)
    training = model.training
    model.eval()
    with autocast(precision, device):
        losses, hits = (ensemble or model).scores(
            tokens, None if end_of_text is None else numbered(tokens, end_of_text)
        )
    model.train(training)
    return losses.double().cpu().numpy(), hits.cpu().numpy()
