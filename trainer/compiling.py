"""PyTorch's compiler: what it may use of what it kept, and one line where it fails, not its account of itself."""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainer import cpu_attention, products, tiled_attention
from trainer.errors import ConfigError

_OPERATORS = (cpu_attention, products, tiled_attention)
"""Modules with operators of ours that a compiler traces."""


def keep_to_our_graphs() -> None:
    """Let torch.compile take no graph that it kept from an earlier version of our operators.

    It knows a graph again by the names of what is called. The shapes of results and the gradients that are in it are
    those that the operators had when it was traced.
    """
    sources = "".join(inspect.getsource(module) for module in _OPERATORS)
    tag = f"morphogen-{zlib.crc32(sources.encode()):08x}"
    config: Any = torch.compiler.config
    if tag not in config.cache_key_tag:
        config.cache_key_tag += tag


@contextmanager
def naming_compiler_failures() -> Iterator[None]:
    """ConfigError where the enclosed code fails because torch.compile does, as it does where no compiler is found."""
    try:
        yield
    except RuntimeError as error:
        compiler = sys.modules.get("torch._dynamo.exc")  # loaded by whoever compiles; it takes seconds
        if compiler is None or not isinstance(error, compiler.TorchDynamoException):
            raise
        cause = getattr(error, "inner_exception", error)
        said = f"{type(cause).__name__}: {str(cause).strip()}".splitlines()[0]
        # Kernels are kept in files that a crash or a full disk leaves cut short, and are not made again.
        if isinstance(cause, ImportError | OSError) and (folder := _kernel_folder()) in str(cause):
            raise ConfigError(
                f"torch.compile failed ({said}): a kernel that it has kept from before is damaged; remove the folder "
                f"{folder}, which it fills again, and run the same command again"
            ) from error
        raise ConfigError(
            f"torch.compile failed ({said}); model.compile = true asks for it, and model.attention = 'document' on a "
            "GPU: install the compiler that it misses, such as g++, or change these"
        ) from error


def _kernel_folder() -> str:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return cache_dir()
