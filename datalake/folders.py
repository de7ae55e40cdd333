"""Folders on this machine as people write them."""

from __future__ import annotations

from pathlib import Path

from datalake.errors import LakePathError


def expanded(folder: str | Path, what: str) -> Path:
    """``folder`` with a leading ``~`` or ``~user`` replaced by that home. Raises LakePathError if nobody knows it.

    A container's uid often has no passwd entry, and then ``~`` means nothing unless HOME is set.
    """
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise LakePathError(
            f"{what} {str(folder)!r}: this system knows no such home folder; write the path out, or set HOME"
        ) from None
