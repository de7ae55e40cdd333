"""Held-out scores of rows that say what each token is for: of what counts, and of whole answers.

An answer is a run of its tokens, the one that ends it included. If the likeliest next token is right all along it, then
picking the likeliest token again and again gives exactly this answer: the share of such answers is what ``whole`` says,
without sampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from datalake import Manifest, RowReader
from datalake.shards.roles import ANSWER, GIVEN
from trainer.mask import LossMask, least_role

_SUMS = 9


class RoleSums:
    """Sums over rows, which add up over parts of a dataset. Padding is in none of them."""

    def __init__(self, manifest: Manifest, mask: LossMask) -> None:
        self._least = least_role(manifest, mask)
        self._bytes_known = manifest.text_bytes is not None
        self._losses_T, self._content_T = np.zeros(manifest.seq_len - 1), np.zeros(manifest.seq_len - 1)
        self._sums = np.zeros(_SUMS)

    def add(
        self, reader: RowReader, rows: np.ndarray, _tokens: np.ndarray, losses_BT: np.ndarray, hits_BT: np.ndarray
    ) -> None:
        """Take the scores of ``rows``, float64 and bool [B, T-1]."""
        roles_BT = reader.roles(rows)[:, 1:]
        content_BT, answers_BT = roles_BT >= GIVEN, roles_BT == ANSWER
        counted_BT = roles_BT >= self._least
        self._losses_T += np.where(content_BT, losses_BT, 0.0).sum(axis=0)
        self._content_T += content_BT.sum(axis=0)
        answers, whole = whole_answers(answers_BT, hits_BT)
        self._sums += [
            losses_BT[counted_BT].sum(),
            counted_BT.sum(),
            hits_BT[counted_BT].sum(),
            losses_BT[answers_BT].sum(),
            answers_BT.sum(),
            hits_BT[answers_BT].sum(),
            answers,
            whole,
            reader.column("target_bytes", rows).sum() if self._bytes_known else 0,
        ]

    def values(self) -> list[float]:
        """All of them, for ``role_scores``."""
        return [*self._losses_T.tolist(), *self._content_T.tolist(), *self._sums.tolist()]


def whole_answers(answers_BT: np.ndarray, hits_BT: np.ndarray) -> tuple[int, int]:
    """How many runs of answers there are, and in how many every prediction is right."""
    padded = np.pad(answers_BT, ((0, 0), (1, 1)))
    starts, stops = (
        np.flatnonzero(edge) for edge in (padded[:, 1:] & ~padded[:, :-1], padded[:, :-1] & ~padded[:, 1:])
    )
    wrong = np.concatenate(([0], np.cumsum(np.pad(answers_BT & ~hits_BT, ((0, 0), (0, 1))))))
    return len(starts), int((wrong[stops] == wrong[starts]).sum())


def role_scores(sums: Sequence[float], total: int, mask: LossMask, edges: Sequence[int]) -> dict[str, Any]:
    """What ``evaluate`` gives of ``total`` rows with roles; ``edges`` cut positions into buckets."""
    length = (len(sums) - _SUMS) // 2
    losses_T, content_T = np.array(sums[:length]), np.array(sums[length : 2 * length])
    nats, counted, hits, answer_nats, tokens, right, answers, whole, size = sums[2 * length :]
    loss = nats / counted
    result: dict[str, Any] = {
        "sequences": total,
        "tokens": int(counted),
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": hits / counted,
        "curve": [
            {"from": low + 1, "to": high + 1, "loss": float(losses_T[low:high].sum() / content_T[low:high].sum())}
            for low, high in pairwise(edges)
            if content_T[low:high].any()
        ],
        "answers": {
            "tokens": int(tokens),
            "loss": answer_nats / tokens,
            "accuracy": right / tokens,
            "answers": int(answers),
            "whole": whole / answers,
        },
    }
    if size and mask != "answers":  # what the answers alone stand for is not known here
        result |= {"bytes": int(size), "bits_per_byte": nats / math.log(2) / size}
    return result
