"""Where this user's processes may keep what can be made again, such as compiled kernels.

Such files are executed or unpickled when they are read back, so a folder counts only if no other user could have put
them there.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

PRIVATE = 0o700


def cache_folder(name: str) -> Path | None:
    """A folder ``name`` that this user can write: in XDG_CACHE_HOME or ~/.cache, else in the temporary directory.

    None if there is neither: keeping things there is an optimisation, and its absence no error.
    """
    for find in (_user_folder, _temporary_folder):
        base = find()
        if base is None:
            continue
        folder = base / name
        try:
            folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def home_folder() -> Path | None:
    """The user's home, or None: HOME may be unset for a uid that has no passwd entry, or name nothing."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def _user_folder() -> Path | None:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # the specification says that others are to be ignored
        return Path(named) / "morphogen"
    home = home_folder()
    return home / ".cache" / "morphogen" if home is not None and home.is_dir() else None


def _temporary_folder() -> Path | None:
    """``morphogen-UID`` in the temporary directory, private to this user, or None if it is not or cannot be made."""
    try:
        # Others may write there too: whoever was first with that name must have been this user.
        folder = Path(tempfile.gettempdir()) / f"morphogen-{os.geteuid()}"
        folder.mkdir(mode=PRIVATE, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    return folder if mine else None
