"""Rows of bytes whose gzip sizes another processor must count as zlib does here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.generator.test_gzip_cells import KINDS, TOPS
from tests.generator.test_gzip_kernel import adversarial, by_zlib, generated

OF_EACH = 16
PRESETS = ("paper", "code", "math", "tiny", "volume")


def write_rows(path: Path) -> None:
    """An archive of arrays uint8 [N, B], and of their sizes int64 [N] under the same names with ``sizes`` before."""
    random = np.random.Generator(np.random.Philox(609))
    rows: dict[str, np.ndarray] = {}
    for name in PRESETS:
        rows[f"preset {name}"] = generated(name, 0, OF_EACH)
    for kind in KINDS:
        for turn, most in enumerate((60, 400, 2100)):
            cells = np.stack([kind(random, most, int(random.choice(TOPS))) for _ in range(OF_EACH)])
            rows[f"{kind.__name__} {turn}"] = np.ascontiguousarray(cells, "<i4").view(np.uint8)
    rows |= {f"bytes {turn}": np.atleast_2d(adversarial(random, 8192)) for turn in range(5 * OF_EACH)}
    np.savez(path, **rows, **{f"sizes {name}": by_zlib(row) for name, row in rows.items()})
