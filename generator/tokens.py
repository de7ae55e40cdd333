"""Frames to tokens and back. Token = sum of color[k] * colors**k over the patch's cells in row-major order.

A frame is `<grid>` (= alphabet), its patches in row-major order, `</grid>` (= alphabet + 1); a sequence is frames end
to end, cut to seq_len.
"""

import numpy as np

from generator.errors import RangeError
from generator.spec import BaseSpec, GridSpec


def _split_patches(spec: GridSpec, frames: np.ndarray) -> np.ndarray:
    """[..., *grid] -> [..., patches, cells of a patch]."""
    d, lead = len(spec.grid), frames.ndim - len(spec.grid)
    shape = [n for side, patch in zip(spec.grid, spec.patch_sides, strict=True) for n in (side // patch, patch)]
    blocks = frames.reshape(*frames.shape[:lead], *shape)
    order = [*range(lead), *range(lead, lead + 2 * d, 2), *range(lead + 1, lead + 2 * d, 2)]
    return blocks.transpose(order).reshape(*frames.shape[:lead], spec.patches, spec.patch_cells)


def encode_frames(spec: GridSpec, frames: np.ndarray) -> np.ndarray:
    """Patch tokens, int32 [..., patches], of grid states uint8 [..., *grid]."""
    cells = _split_patches(spec, np.asarray(frames)).astype(np.int32)
    return cells @ (np.int32(spec.colors) ** np.arange(cells.shape[-1], dtype=np.int32))


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
