"""Processes that begin with what tests import: forked from one that has done so, where `spawn` imports torch for each.

The server (`multiprocessing`'s "forkserver") has no threads, so a fork of it is as good as a new process.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# Imported once a session; each worker's own module is found among them, with all that it needs.
multiprocessing.set_forkserver_preload(
    [
        "tests.trainer.test_ranks",
        "tests.trainer.test_sharded",
        "tests.trainer.lattice.test_lattice_loop",
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
    ]
)


def run_ranks(worker: Callable[..., None], *arguments: Any, world: int = 2) -> None:
    """Run ``worker(rank, *arguments)`` in ``world`` processes, in today's environment; raise what one raises."""
    mp.start_processes(
        functools.partial(_in_environment, {**os.environ}, worker), arguments, world, start_method="forkserver"
    )


def _in_environment(environment: dict[str, str], worker: Callable[..., None], *arguments: Any) -> None:
    os.environ.clear()  # the server's is of the time when it was started
    os.environ.update(environment)
    worker(*arguments)
