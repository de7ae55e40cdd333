"""Independent cells: from Philox words to colours, uniform or by one categorical distribution per sequence."""

import numpy as np

from generator import philox
from generator.tables import COLOR_Q


def cumulative_colors(seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, colors: int) -> np.ndarray:
    """Cumulative integer weights int64 [N, colors] of softmax over N(0, 1) logits: COLOR_Q at COLOR_LOGITS bytes."""
    logits = philox.stream_bytes(seed, philox.COLOR_LOGITS, ids_N, attempts_N, colors)
    return np.cumsum(COLOR_Q[logits].astype(np.int64), axis=1)


def colors_from_words(words_NX: np.ndarray, colors: int, cumulative_NC: np.ndarray | None) -> np.ndarray:
    """Colours uint8 [N, X]: uniform without weights, else the first whose cumulative weight exceeds a uniform integer
    below the total."""
    if cumulative_NC is None:
        return philox.below(words_NX, colors).astype(np.uint8)
    value_NX = philox.below(words_NX, cumulative_NC[:, -1:])
    cells = np.zeros(value_NX.shape, dtype=np.uint8)
    for color in range(colors - 1):
        cells += value_NX >= cumulative_NC[:, color : color + 1]
    return cells
