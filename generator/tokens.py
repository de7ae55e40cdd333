"""Frames to tokens and back. Token = sum of color[k] * colors**k over the patch's cells in row-major order.

A frame is `<grid>` (= alphabet), its patches in row-major order, `</grid>` (= alphabet + 1); a sequence is frames end
to end, cut to seq_len.
"""

import numpy as np

from generator.errors import RangeError
from generator.spec import BaseSpec, GridSpec


def encode_frames(spec: GridSpec, frames: np.ndarray) -> np.ndarray:
    """Patch tokens, int32 [..., patches], of grid states uint8 [..., *grid]."""
    tokens = np.asarray(frames).astype(np.min_scalar_type(spec.alphabet - 1))
    lead, base = tokens.ndim - len(spec.grid), spec.colors
    for axis, patch in reversed(list(enumerate(spec.patch_sides))):
        # The cells of a patch along this axis are digits of base `base`.
        before, side, after = tokens.shape[: lead + axis], spec.grid[axis] // patch, tokens.shape[lead + axis + 1 :]
        digits = np.moveaxis(tokens.reshape(*before, side, patch, *after), lead + axis + 1, 0)
        tokens = digits[0]
        for number in range(1, patch):
            tokens = tokens + digits[number] * base**number
        base **= patch
    return tokens.reshape(*tokens.shape[:lead], spec.patches).astype(np.int32)


def frames_to_tokens(spec: GridSpec, frames_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `spec.token_dtype` [N, seq_len] and scored content int32 [N, score_tokens] of frames uint8
    [N, F, *grid]."""
    patches_NFP = encode_frames(spec, frames_NF)
    framed = np.empty((*patches_NFP.shape[:2], spec.frame_tokens), dtype=spec.token_dtype)
    framed[..., 0] = spec.alphabet
    framed[..., 1:-1] = patches_NFP
    framed[..., -1] = spec.alphabet + 1
    tokens_NT = framed.reshape(len(framed), -1)[:, : spec.seq_len]
    scored_NS = patches_NFP.reshape(len(framed), -1)[:, : spec.score_tokens]
    return np.ascontiguousarray(tokens_NT), np.ascontiguousarray(scored_NS)


def decode_tokens(spec: BaseSpec, tokens_T: np.ndarray) -> np.ndarray:
    """Grid states uint8 [F, *grid] of the full frames in one sequence [T]. RangeError if its tokens are no frames."""
    shown = spec.frames_of
    if shown is None:
        raise RangeError(f"family: {spec.family!r} has no frames to decode; allowed are families on a grid; choose one")
    tokens = np.asarray(tokens_T, dtype=np.int64)
    count = len(tokens) // shown.frame_tokens
    framed = tokens[: count * shown.frame_tokens].reshape(count, shown.frame_tokens)
    patches = framed[:, 1:-1]
    delimited = (framed[:, 0] == shown.alphabet).all() and (framed[:, -1] == shown.alphabet + 1).all()
    if not delimited or (patches < 0).any() or (patches >= shown.alphabet).any():
        raise RangeError(
            f"tokens: not frames of {shown.patches} patches below {shown.alphabet} between delimiters; decode with the "
            "spec that made them"
        )
    d, sides = len(shown.grid), shown.patch_sides
    cells = (patches[..., None] // shown.colors ** np.arange(shown.patch_cells)) % shown.colors
    blocks = cells.reshape(count, *(side // p for side, p in zip(shown.grid, sides, strict=True)), *sides)
    order = [0, *(axis for k in range(d) for axis in (1 + k, 1 + d + k))]
    return blocks.transpose(order).reshape(count, *shown.grid).astype(np.uint8)


def unigram_entropy_nats(tokens: np.ndarray) -> float:
    """Entropy in nats of the token frequencies within a sequence [T]; of several [N, T], the mean."""
    rows = np.atleast_2d(np.asarray(tokens))
    total = 0.0
    for row in rows:
        share = np.unique(row, return_counts=True)[1] / len(row)
        total -= float(np.sum(share * np.log(share)))
    return total / len(rows)
