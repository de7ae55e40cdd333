"""Sequences for the eye: grids as PNG pictures in data URIs, text as text, numbers for the rest.

A 12×12 frame is some 150 bytes of PNG, so a page carries all its frames itself: one request, readable without
JavaScript, and the play control has its pictures already.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datalake import Manifest, Store
from generator import GeneratorError, decode_tokens, parse_spec
from orchestration.corpus.tokenizers import load_tokenizer
from orchestration.errors import OrchestrationError
from orchestration.reports.picture import palette

_SHOWN_TOKENS = 256
MAX_PICTURES = 120  # a sequence may have 20,000 frames of one patch


@dataclass(frozen=True)
class Picture:
    """One frame: a data URI, its size in cells, and the automaton's step (None where steps mean nothing)."""

    src: str
    width: int
    height: int
    step: int | None


@dataclass(frozen=True)
class Drawing:
    """One sequence: ``pictures`` of a grid, or ``text``; ``kind`` is frames, text or tokens. ``frames`` is how many
    there are, of which the first MAX_PICTURES are drawn; ``slices`` of depth, 1 unless it is a volume, lie side by side
    in each picture."""

    kind: str
    pictures: tuple[Picture, ...] = ()
    text: str = ""
    frames: int = 0
    slices: int = 1


def draw_sequence(store: Store, manifest: Manifest, tokens_T: NDArray[np.unsignedinteger]) -> Drawing:
    """Draw one row of a dataset, [seq_len], in whatever way fits its source."""
    if manifest.kind == "text":
        return _text(store, manifest.source.spec, tokens_T)
    try:
        spec = parse_spec(manifest.source.spec)
        frames = decode_tokens(spec, tokens_T)
    except GeneratorError:  # no grid, or a spec of another program: the numbers are all there is to show
        return _numbers(tokens_T)
    shown = spec.frames_of
    if shown is None or not len(frames):
        return _numbers(tokens_T)
    if frames.ndim == 2:  # cells in a row: time goes downwards, and the whole sequence is one picture
        return Drawing("frames", (picture(frames, shown.colors, None),))
    first, stride = getattr(shown, "burn_in", 0), getattr(shown, "stride", 1)
    steps = [first + stride * index if spec.family == "nca" else None for index in range(len(frames))]
    return Drawing(
        "frames",
        tuple(picture(frame, shown.colors, step) for frame, step in zip(frames[:MAX_PICTURES], steps, strict=False)),
        frames=len(frames),
        slices=frames.shape[1] if frames.ndim == 4 else 1,
    )


def picture(frame: NDArray[np.uint8], colors: int, step: int | None) -> Picture:
    """A frame, uint8 [H, W] or [D, H, W] (slices side by side), one pixel a cell."""
    if frame.ndim == 3:
        # One empty column between slices; index `colors` of the palette is transparent.
        gap = np.full((frame.shape[1], 1), colors, dtype=np.uint16)
        cells = np.concatenate([part for piece in frame for part in (gap, piece)][1:], axis=1)
    else:
        cells = frame
    rgba = np.zeros((colors + 1, 4), dtype=np.uint8)
    rgba[:colors, :3], rgba[:colors, 3] = palette(colors), 255
    image = Image.fromarray(rgba[cells])
    if frame.ndim == 2:
        image = image.convert("RGB").quantize(min(colors, 256), dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    src = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return Picture(src, cells.shape[1], cells.shape[0], step)


def _text(store: Store, spec: dict[str, Any], tokens_T: NDArray[np.unsignedinteger]) -> Drawing:
    try:
        pieces = load_tokenizer(store, spec).decode(tokens_T)
    except (KeyError, OrchestrationError):  # a corpus that somebody else tokenised
        return _numbers(tokens_T)
    return Drawing("text", text="\n⁂\n".join(piece.decode("utf-8", errors="replace") for piece in pieces))


def _numbers(tokens_T: NDArray[np.unsignedinteger]) -> Drawing:
    more = " …" if len(tokens_T) > _SHOWN_TOKENS else ""
    return Drawing("tokens", text=" ".join(map(str, tokens_T[:_SHOWN_TOKENS].tolist())) + more)
