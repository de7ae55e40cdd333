"""The masks of a mixture's sources on a rank's device, and how many predictions count in each global batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datalake import Plan
from trainer.errors import PlanMismatchError
from trainer.ranks import Ranks


class TargetMasks:
    """The masks of a mixture's sources, and how many predictions count in each global batch.

    ``masks_ST`` is bool [S, T-1], ``least_S`` what ``least_role`` says of each source. Where no source has roles the
    count follows from the plan, so no rank asks another for it; otherwise each counts its own rows, and they add up.
    """

    def __init__(
        self,
        plan: Plan,
        masks: Sequence[np.ndarray],
        device: torch.device,
        least_S: Sequence[int | None] | None = None,
    ) -> None:
        masks_ST = np.stack(masks)
        self._plan, self._device = plan, device
        self._counted_S = masks_ST.sum(axis=1)
        self._masks_ST = masks_ST
        self._weights_ST = None if masks_ST.all() else torch.from_numpy(masks_ST.astype(np.float32)).to(device)
        self._least_S = least_S if least_S and any(least is not None for least in least_S) else None

    def count(self, step: int) -> int:
        """Predictions that count in the global batch of ``step``, by the plan."""
        before, after = self._plan.position(step), self._plan.position(step + 1)
        return sum(
            int(counted) * ((b.epoch - a.epoch) * source.rows + b.row - a.row)
            for counted, source, a, b in zip(self._counted_S, self._plan.sources, before, after, strict=True)
        )

    def count_over(self, step: int, rows_B2: np.ndarray, roles_BT: np.ndarray | None, ranks: Ranks) -> int:
        """The same, given this rank's rows of the step: of sources with roles, the sum over all ranks."""
        if self._least_S is None:
            return self.count(step)
        (total,) = ranks.sum([float(self._counted(rows_B2, roles_BT, self._least_S).sum())])
        return int(total)

    def of(self, rows_B2: np.ndarray, roles_BT: np.ndarray | None = None) -> Tensor | None:
        """1 or 0 for each prediction of these (source, row) pairs, float32 [B, T-1]; None where all count.

        ``roles_BT`` has the roles of tokens of sources with roles; PlanMismatchError where it lacks.
        """
        if self._least_S is None:
            return None if self._weights_ST is None else self._weights_ST[torch.from_numpy(rows_B2[:, 0].copy())]
        counted_BT = self._counted(rows_B2, roles_BT, self._least_S)
        return torch.from_numpy(counted_BT.astype(np.float32)).to(self._device)

    def _counted(self, rows_B2: np.ndarray, roles_BT: np.ndarray | None, least_S: Sequence[int | None]) -> np.ndarray:
        sources_B = rows_B2[:, 0]
        counted_BT = self._masks_ST[sources_B]
        for source, least in enumerate(least_S):
            mine_B = sources_B == source
            if least is None or not mine_B.any():
                continue
            if roles_BT is None or roles_BT.shape != (len(rows_B2), counted_BT.shape[1] + 1):
                raise PlanMismatchError(
                    f"a batch has rows of source {source} without the roles of their tokens, which say what counts; "
                    "send roles [rows, seq_len] with it, as trainer.local_batches does"
                )
            counted_BT[mine_B] = roles_BT[mine_B, 1:] >= least
        return counted_BT
