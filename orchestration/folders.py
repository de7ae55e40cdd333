"""Where this process writes: the folders that libraries use unasked, and the files that a user names."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from generator.cache_folder import cache_folder, home_folder
from orchestration.errors import OutputError

# The variable that each library reads, and the name of its folder.
_LIBRARIES = {
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "HF_HOME": "huggingface",
    "WANDB_CACHE_DIR": "wandb-cache",
    "WANDB_CONFIG_DIR": "wandb-config",
    "WANDB_DATA_DIR": "wandb-data",
}


def prepare_folders() -> None:
    """Give this process and its children folders that they can write, where the user's home is none.

    A home counts if it exists and can be written, and the user has a name, which torch.compile asks for. Where nothing
    says what the home is (no HOME, and a uid without an entry in passwd), it is a private folder from here on: Ray asks
    as it is imported. What is set already stays as it is; nothing is done where no folder can be written, and the
    libraries do without.
    """
    home = home_folder()
    if home is None and (folder := cache_folder("home")) is not None:
        os.environ["HOME"] = str(folder)
    if home is not None and os.access(home, os.W_OK) and _user_has_a_name():
        return
    for variable, name in _LIBRARIES.items():
        if not os.environ.get(variable) and (folder := cache_folder(name)) is not None:
            os.environ[variable] = str(folder)


def ray_folder(default: str = "/tmp/ray") -> str | None:
    """Where Ray shall keep its sessions, if another user's processes made its usual folder; None for the usual one."""
    if not os.path.lexists(default) or os.access(default, os.W_OK | os.X_OK):
        return None
    folder = cache_folder("ray")
    return None if folder is None else str(folder)


def _user_has_a_name() -> bool:
    with suppress(KeyError, OSError):
        return bool(getpass.getuser())
    return False


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Turn what the file system says against writing ``path`` in the block into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{option} = {str(path)!r}: cannot be written ({error.strerror or error}); give a path in a folder that "
            "exists and that you may write"
        ) from error


def check_output(path: Path, option: str) -> None:
    """Raise OutputError, before anything is computed, if no file can be made at ``path``."""
    with writing(path, option):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if not path.parent.is_dir():
            raise FileNotFoundError(None, "its folder does not exist")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(None, "no permission")
