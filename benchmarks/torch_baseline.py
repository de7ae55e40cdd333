"""What a user would otherwise write: the published network in plain PyTorch, float32, vectorised over rules."""

import numpy as np
import torch

from generator.families.nca import NcaSpec
from generator.nca.lattice import neighbor_offsets


class TorchBaseline:
    """Random rules, categorical start, convolution as a gather of kernel rows, two einsums, argmax, patch tokens."""

    def __init__(self, spec: NcaSpec, batch: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.spec, self.batch = spec, batch
        cells = np.arange(spec.cells).reshape(spec.grid)
        around = [
            np.roll(cells, tuple(-o for o in offset), axis=(0, 1)).ravel()
            for offset in neighbor_offsets(len(spec.grid), spec.neighborhood)
        ]
        self.neighbors_KX = torch.from_numpy(np.stack(around))
        self.powers = spec.colors ** torch.arange(spec.patch**2)

    def run(self, number: int) -> torch.Tensor:
        """Tokens int64 [batch, seq_len] of fresh rules."""
        spec, batch = self.spec, self.batch
        draw = torch.Generator().manual_seed(number)
        count = len(self.neighbors_KX)

        def weights(*shape: int, fan_in: int) -> torch.Tensor:
            values = torch.empty(batch, *shape)
            torch.nn.init.trunc_normal_(values, std=fan_in**-0.5 / 0.8796, a=-2.0, b=2.0, generator=draw)
            return values

        conv_BKCE = weights(count, spec.colors, spec.embed, fan_in=count * spec.colors)
        first_BEH = weights(spec.embed, spec.hidden, fan_in=spec.embed)
        second_BHC = weights(spec.hidden, spec.colors, fan_in=spec.hidden)
        start = torch.softmax(torch.randn(batch, spec.colors, generator=draw), dim=1)
        cells_BX = torch.multinomial(start, spec.cells, replacement=True, generator=draw)
        kernel_BRE = conv_BKCE.reshape(batch, count * spec.colors, spec.embed)
        base_K1 = (torch.arange(count) * spec.colors)[:, None]
        frames = []
        for step in range(spec.steps + 1):
            if step >= spec.burn_in:
                frames.append(cells_BX)
            rows_BN = (cells_BX[:, self.neighbors_KX] + base_K1).reshape(batch, -1)
            seen = kernel_BRE.gather(1, rows_BN[..., None].expand(-1, -1, spec.embed))
            embedded_BXE = seen.reshape(batch, count, spec.cells, spec.embed).sum(1)
            hidden_BXH = torch.relu(torch.einsum("bxe,beh->bxh", embedded_BXE, first_BEH))
            cells_BX = torch.einsum("bxh,bhc->bxc", hidden_BXH, second_BHC).argmax(2)
        return self._tokens(torch.stack(frames, 1))

    def _tokens(self, frames_BFX: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        height, width = (side // spec.patch for side in spec.grid)
        split = frames_BFX.reshape(*frames_BFX.shape[:2], height, spec.patch, width, spec.patch)
        patches = split.permute(0, 1, 2, 4, 3, 5).reshape(*frames_BFX.shape[:2], -1, spec.patch**2)
        ids = (patches * self.powers).sum(-1)
        opening = torch.full_like(ids[..., :1], spec.alphabet)
        return torch.cat([opening, ids, opening + 1], dim=2).flatten(1)[:, : spec.seq_len]
