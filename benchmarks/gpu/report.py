"""What a part found, written line by line, so that a part that is stopped loses nothing it had."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARISON_DATA = "MORPHOGEN_COMPARISON_DATA"
"""The environment variable that names the folder `--data` gave; without it the comparison makes its data anew."""


@dataclass(frozen=True)
class Report:
    """Where a part writes its figures, until when it may work, and whether sizes are toys."""

    path: Path
    ends: float
    toy: bool

    def figure(self, **values: Any) -> None:
        """Append one figure: a JSON object on a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, default=str) + "\n")
        print(json.dumps(values, default=str), flush=True)

    def left(self) -> float:
        """Seconds that the part may still take."""
        return self.ends - time.monotonic()


def read_figures(path: Path) -> list[Mapping[str, Any]]:
    """The figures in a part's file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    figures = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            figures.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return figures
