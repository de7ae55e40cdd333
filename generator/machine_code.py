"""Functions compiled by numba whose machine code is kept on disk where that is possible, and compiled anew where not.

Keeping it saves seconds at each start and is never needed: an installation that cannot be written, a missing home, a
full disk or a damaged file cost time and a warning, and no result.
"""

from __future__ import annotations

import inspect
import os
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numba

from generator.cache_folder import cache_folder

_locating = threading.Lock()
_config: Any = numba.config  # made of variables at run time


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``function`` as machine code that releases the GIL; ``options`` are those of ``numba.njit``.

    The code is kept in NUMBA_CACHE_DIR if set, else beside the source, else in this user's ``cache_folder``.
    """
    kept = _kept(function, lambda: numba.njit(nogil=True, cache=True, **options)(function))
    if kept is None:
        return numba.njit(nogil=True, **options)(function)
    return _Compiled(function, kept, options)


def compiled_for_c(function: Callable[..., None], signature: Any) -> Any:
    """``function`` as machine code that C can call, at the attribute ``address``; the code is kept as by ``compiled``.

    It is compiled at once, and is there as long as what is returned.
    """
    try:
        kept = _kept(function, lambda: numba.cfunc(signature, cache=True)(function))
    except Exception as error:  # noqa: BLE001 - as in _Compiled
        _warn(f"{type(error).__name__}: {error}")
        kept = None
    return kept or numba.cfunc(signature)(function)


def checksum(*modules: ModuleType) -> int:
    """Of what these modules say.

    Kept code is made anew when its function's own file changes, or a value that the function encloses and uses: this
    is one for the other files whose contents end up in it.
    """
    return zlib.crc32("".join(inspect.getsource(module) for module in modules).encode())


def is_kept(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call of what ``compiled`` returned, with arguments of these types, finds its machine code on disk."""
    return isinstance(function, _Compiled) and function.is_kept(*arguments)


class _Compiled:
    """Calls the kept code; should reading or writing it fail at the first call, from then on code that is not kept."""

    def __init__(self, function: Callable[..., Any], kept: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function = function
        self._options = options
        self._run = kept
        self._proven = False

    def __call__(self, *arguments: Any) -> Any:
        if self._proven:
            return self._run(*arguments)
        try:
            result = self._run(*arguments)
        except Exception as error:  # noqa: BLE001 - a damaged file raises anything; if it was no file, it comes again
            _warn(f"{type(error).__name__}: {error}")
            self._run = numba.njit(nogil=True, **self._options)(self._function)
            result = self._run(*arguments)
        self._proven = True
        return result

    def is_kept(self, *arguments: Any) -> bool:
        """Whether the disk has code for arguments of these types, made of these sources for this processor."""
        run: Any = self._run
        try:
            kinds = tuple(numba.typeof(argument) for argument in arguments)
            return run._cache.load_overload(kinds, run.targetctx) is not None
        except Exception:  # noqa: BLE001 - a damaged file raises anything, and is as good as none
            return False


def _kept(function: Callable[..., Any], make: Callable[[], Any]) -> Any:
    """What ``make`` makes of ``function`` with a cache that was found usable, or None."""
    with _locating:  # numba takes the folder from a global, which is other people's, too
        before = _config.CACHE_DIR
        try:
            if not before and not _writable(Path(function.__code__.co_filename).parent / "__pycache__"):
                folder = cache_folder("numba")
                if folder is None:
                    _warn("neither the installation, nor a home, nor a temporary folder can be written")
                    return None
                _config.CACHE_DIR = str(folder)
            return make()
        except RuntimeError as error:  # "no locator available"
            _warn(str(error))
            return None
        finally:
            _config.CACHE_DIR = before


def _writable(folder: Path) -> bool:
    """Whether files can be made there, by making one: permissions alone do not say, as on a network's file system."""
    try:
        folder.mkdir(exist_ok=True)
        probe = folder / f".morphogen-{os.getpid()}-{threading.get_ident()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


_warned = False


def _warn(why: str) -> None:
    """Once a process."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels are not kept on disk, so every process compiles its own ({why}); "
            "NUMBA_CACHE_DIR names a folder for them",
            RuntimeWarning,
            stacklevel=2,
        )
