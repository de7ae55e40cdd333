"""Which predictions count: a function of the position alone; frames and episodes of one dataset are equally long.

A sequence of frames begins with one that nothing could predict, and its delimiters are where anyone expects them; a
task's sequence shows what is asked before what is answered. Only rows of prompts and answers differ in shape: they
bring the role of each token with them (``datalake.shards.roles``), and what counts is then said row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from datalake import Manifest
from datalake.shards.roles import ANSWER, GIVEN, has_roles
from generator import answer_mask

LossMask = Literal["none", "first_frame", "first_frame+delimiters", "answers"]


def frame_tokens(spec: Mapping[str, Any]) -> int | None:
    """Tokens of one frame, its two delimiters included, by a dataset's spec; None if it shows no frames.

    A control made of another family's sequences (``base``) has that family's frames.
    """
    if isinstance(base := spec.get("base"), Mapping):
        return frame_tokens(base)
    if "grid" not in spec or "patch" not in spec:
        return None
    return math.prod(side // spec["patch"] for side in spec["grid"]) + 2


def target_mask(seq_len: int, frame: int | None, mask: LossMask) -> np.ndarray:
    """bool [seq_len-1]: whether the prediction of token t+1 counts; all of them for data without frames.

    ``first_frame`` leaves out the first ``frame``-1 predictions, that is all of the first frame (its opening delimiter
    is given), as the published trainer of arXiv 2603.10055 does. ``first_frame+delimiters`` also leaves out every
    later delimiter.
    """
    counted_T = np.ones(seq_len - 1, dtype=bool)
    if frame is None or mask == "none":
        return counted_T
    counted_T[: frame - 1] = False
    if mask == "first_frame+delimiters":
        place_T = np.arange(1, seq_len) % frame
        counted_T &= (place_T != 0) & (place_T != frame - 1)
    return counted_T


def counted_targets(spec: Mapping[str, Any], seq_len: int, mask: LossMask) -> np.ndarray:
    """bool [seq_len-1]: whether the prediction of token t+1 counts, in sequences of ``spec``.

    ``answers`` counts the answers of a task alone; of data that asks for none, all. The rest is ``target_mask``'s.
    """
    if mask == "answers":
        answers = answer_mask(spec)
        return np.ones(seq_len - 1, dtype=bool) if answers is None else answers[1:]
    return target_mask(seq_len, frame_tokens(spec), mask)


def mask_applies(spec: Mapping[str, Any], mask: LossMask) -> bool:
    """Whether sequences of ``spec`` have what ``mask`` goes by: answers for "answers", frames for the others."""
    if mask == "none":
        return True
    return (answer_mask(spec) if mask == "answers" else frame_tokens(spec)) is not None


def dataset_applies(manifest: Manifest, mask: LossMask) -> bool:
    """``mask_applies`` of a dataset, whose rows may say themselves which tokens are answers."""
    return (mask == "answers" and has_roles(manifest)) or mask_applies(spec_of(manifest), mask)


def least_role(manifest: Manifest, mask: LossMask) -> int | None:
    """The least role of a token whose prediction counts, where rows say roles: padding never does. None where they do
    not."""
    if not has_roles(manifest):
        return None
    return ANSWER if mask == "answers" else GIVEN


def spec_of(manifest: Manifest) -> Mapping[str, Any]:
    """What a dataset's sequences were made by; empty for text, which has neither frames nor answers."""
    return manifest.source.spec if manifest.kind == "synthetic" else {}


def dataset_mask(manifest: Manifest, mask: LossMask) -> np.ndarray:
    """``counted_targets`` of a dataset."""
    return counted_targets(spec_of(manifest), manifest.seq_len, mask)
