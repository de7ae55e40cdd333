"""Machine code of the trainer's kernels is made once on a machine, and not by each process anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import torch
from tests.trainer.test_cpu_attention import drawn
from trainer.cpu_attention import cpu_attention
from trainer.loss import token_losses
from trainer.tiled_attention import attend
for function, width in ((lambda *parts: cpu_attention(*parts, None), 4), (attend, 16)):
    parts = [drawn(1, 3, 2, width, seed=seed).requires_grad_() for seed in range(3)]
    function(*parts).sum().backward()
token_losses(drawn(3, 4).requires_grad_(), drawn(5, 4), torch.tensor([0, 4, 2])).sum().backward()
"""


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    def kept() -> list[str]:
        subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=environment, timeout=280)
        return sorted(path.name for path in tmp_path.rglob("*.nbc"))

    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first = kept()
    assert len(first) == 5
    assert kept() == first
