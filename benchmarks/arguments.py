"""What the benchmarks' arguments may be: argparse shows what is wrong with another one and exits with code 2."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def whole(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """A type of whole numbers from ``least`` on, up to ``most`` if there is one."""
    allowed = f"from {least} on" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise ArgumentTypeError(f"{text}: allowed are whole numbers {allowed}; give one")
        return number

    return parse


def above_zero(text: str) -> float:
    """A type of finite numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ArgumentTypeError(f"{text}: allowed are numbers above 0; give one")
    return number


def folder(text: str) -> Path:
    """A type of folders, which need not be there yet."""
    path = Path(text)
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{text}: {nearest} is no folder; name a folder, new or existing")
    return path


def existing_folder(text: str) -> Path:
    """A type of folders that are there."""
    path = Path(text)
    if not path.is_dir():
        raise ArgumentTypeError(f"{text}: there is no such folder; name one that exists")
    return path
