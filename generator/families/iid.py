"""Family `iid`, a control: frames whose cells are drawn independently; nothing but unigrams to learn."""

from typing import Literal

import numpy as np

from generator import philox
from generator.initial import colors_from_words, cumulative_colors
from generator.spec import GridSpec, Simulated
from generator.tokens import frames_to_tokens


class IidSpec(GridSpec):
    """`init`: every cell uniform over the colours, or from one random categorical distribution per sequence."""

    family: Literal["iid"] = "iid"
    init: Literal["categorical", "uniform"] = "categorical"


def simulate(spec: IidSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Every backend runs this one NumPy code: the cells are the words of the CELLS stream."""
    del backend
    words = philox.words(seed, philox.CELLS, ids_N, attempts_N, spec.frames * spec.cells)
    cumulative = None
    if spec.init == "categorical":
        cumulative = cumulative_colors(seed, ids_N, attempts_N, spec.colors)
    frames = colors_from_words(words, spec.colors, cumulative).reshape(-1, spec.frames, *spec.grid)
    return Simulated(*frames_to_tokens(spec, frames))
