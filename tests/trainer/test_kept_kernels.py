"""Machine code of the trainer's kernels is made once on a machine and of its sources, not by each process anew."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.compiling import keep_to_our_graphs

PROGRAM = """
import torch
from tests.trainer.test_cpu_attention import drawn
from trainer.cpu_attention import cpu_attention
from trainer.loss import token_losses
from trainer.products import _product
from trainer.tiled_attention import attend
for function, width in ((lambda *parts: cpu_attention(*parts, None), 4), (attend, 16)):
    parts = [drawn(1, 3, 2, width, seed=seed).requires_grad_() for seed in range(3)]
    function(*parts).sum().backward()
token_losses(drawn(3, 4).requires_grad_(), drawn(5, 4), torch.tensor([0, 4, 2])).sum().backward()
_product(drawn(9, 4), drawn(4, 5))
"""


OTHER_SOURCES = """
from generator import machine_code
machine_code.checksum = lambda *modules: 1
"""


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[str], list[str]]:
    """The files of machine code there are, once a process of its own has run a program."""

    def run(program: str) -> list[str]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=280)
        return sorted(path.name for path in tmp_path.rglob("*.nbc"))

    return run


def test_a_second_process_compiles_nothing_and_other_sources_everything(kept: Callable[[str], list[str]]) -> None:
    first = kept(PROGRAM)
    assert len(first) == 6
    assert kept(PROGRAM) == first
    assert len(kept(OTHER_SOURCES + PROGRAM)) == 12


def test_graphs_kept_by_torch_compile_are_of_these_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = torch.compiler.config
    with config.patch(cache_key_tag="a user's"):
        keep_to_our_graphs()
        ours = config.cache_key_tag
        keep_to_our_graphs()
        assert config.cache_key_tag == ours
        assert ours.startswith("a user's")
        assert len(ours) > len("a user's")
    with config.patch(cache_key_tag="a user's"):
        monkeypatch.setattr(inspect, "getsource", lambda module: f"what {module} was")
        keep_to_our_graphs()
        assert config.cache_key_tag != ours
