"""Run a function as somebody else: what the kernel refuses to others, it does not refuse to root."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NOBODY = 65534


def as_nobody(function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises in a child process of user and group ``nobody``.

    Without root the child stays who it is: then permissions hold for the tests' own user, too.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        outcome: tuple[Any, BaseException | None]
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            outcome = function(), None
        except BaseException as error:  # noqa: BLE001 - raised by the parent
            outcome = None, error
        try:
            os.write(writing, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    result, error = pickle.loads(data)  # noqa: S301 - our own child's
    if error is not None:
        raise error
    return result


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everyone can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="morphogen-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
