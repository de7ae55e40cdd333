"""What the last checkpoints of a run predict together: the mean of their logits, or of their probabilities.

One set of weights is in the model at a time, the others wait in host memory, so that it costs the device no more than a
single evaluation. It is of the run's end alone: the checkpoints are those of ``TrainConfig.ensemble_steps``, which the
run keeps for it, and its own weights are the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datalake import Checkpoint, Lake, Run
from datalake.errors import CorruptObjectError, NotFoundError
from trainer.checkpoint import MODEL
from trainer.config import EnsembleConfig
from trainer.errors import CheckpointError
from trainer.hf_layout import load_pieces
from trainer.model import Llama
from trainer.ranks import Ranks
from trainer.shards import Saved, local

LOGITS = 2**26
GPU_LOGITS = 2**28
"""Logits of a pass: they are held twice, what is summed and what is added."""

Weights = Mapping[str, Tensor]


class Ensemble:
    """``model`` with several sets of weights; it has its own, to the bit, whenever no score is being computed."""

    def __init__(self, model: Llama, members: Sequence[Weights], config: EnsembleConfig) -> None:
        self._model, self._members, self._mean = model, members, config.mean

    @classmethod
    def of_run(
        cls, model: Llama, config: EnsembleConfig, lake: Lake, run: str, steps: Sequence[int], ranks: Ranks
    ) -> Ensemble:
        """The checkpoints of ``run`` at ``steps``, of which the last is what ``model`` holds.

        CheckpointError if one is gone or damaged.
        """

        def find() -> tuple[Run, list[Checkpoint | None]]:
            found = lake.runs.get(run)
            by_step = {checkpoint.step: checkpoint for checkpoint in found.checkpoints}
            return found, [by_step.get(step) for step in steps[:-1]]

        record, checkpoints = ranks.from_zero(find)
        parameters, own, members = dict(model.named_parameters()), weights_of(model), []
        for step, checkpoint in zip(steps, checkpoints, strict=False):
            try:
                if checkpoint is None:
                    raise NotFoundError("the run keeps none of that step")
                load_pieces(model, Saved(record.open_checkpoint(checkpoint), MODEL).pieces(parameters.get))
            except (NotFoundError, CorruptObjectError) as error:
                raise CheckpointError(
                    f"ensemble: the checkpoint of step {step} cannot be read: {error}; run it anew, or without ensemble"
                ) from error
            members.append(weights_of(model))
        put(model, own)
        return cls(model, [*members, own], config)

    def rows(self, length: int, most: int) -> int:
        """How many rows of ``length`` tokens make a pass, at most ``most``."""
        head_VD = self._model.lm_head.weight
        limit = LOGITS if head_VD.device.type == "cpu" else GPU_LOGITS
        return max(1, min(most, limit // (length * head_VD.shape[0])))

    @torch.no_grad()
    def scores(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As ``Llama.scores``, of the mean."""
        total_BTV: Tensor | None = None
        for member in self._members:
            put(self._model, member)
            before = None if documents_BT is None else documents_BT[:, :-1]
            found_BTV = self._model.logits(tokens_BT[:, :-1], before).float()
            if self._mean == "probabilities":
                found_BTV = found_BTV.log_softmax(dim=-1)
            if total_BTV is None:
                total_BTV = found_BTV
            elif self._mean == "probabilities":
                total_BTV = torch.logaddexp(total_BTV, found_BTV, out=total_BTV)
            else:
                total_BTV += found_BTV
        put(self._model, self._members[-1])
        assert total_BTV is not None
        if self._mean == "logits":
            total_BTV /= len(self._members)  # a sum of probabilities is normalised with the rest
        losses_N = F.cross_entropy(total_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none")
        return losses_N.view_as(tokens_BT[:, 1:]), total_BTV.argmax(dim=-1) == tokens_BT[:, 1:]


def weights_of(model: Llama) -> dict[str, Tensor]:
    """A copy, in host memory, of what this rank holds."""
    return {name: local(parameter.detach()).to("cpu", copy=True) for name, parameter in model.named_parameters()}


@torch.no_grad()
def put(model: Llama, weights: Weights) -> None:
    """Let ``model`` have ``weights``, as ``weights_of`` gave them."""
    for name, parameter in model.named_parameters():
        local(parameter.detach()).copy_(weights[name])
