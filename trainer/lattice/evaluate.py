"""What a trained lattice can do: the light cone, persistence, recovery from damage, and the control without links."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.lattice.cell import Lattice
from trainer.lattice.damage import damaged_cells
from trainer.lattice.loss import accuracy, misses, overlap
from trainer.lattice.masks import FireMasks
from trainer.lattice.neighbours import wire
from trainer.lattice.rollout import rollout
from trainer.lattice.sampling import empty_rows, injection, shown, torch_dtype
from trainer.lattice.sparse import Sparse
from trainer.lattice.targets import Surface, Target
from trainer.lattice.train_config import LatticeTrainConfig
from trainer.precision import Precision

HELD_OUT = 1 << 62  # added to the seed: evaluation meets codes and masks that training never drew


def is_whole(config: LatticeTrainConfig) -> bool:
    """Whether the finished network is the one in whole numbers."""
    return config.quantise_fraction > 0


@torch.no_grad()
def states_over_time(
    config: LatticeTrainConfig,
    model: Lattice,
    target: Target,
    codes: np.ndarray,
    steps: int,
    precision: Precision,
    rows: Tensor | None = None,
    first: int = 0,
    sparse: Sparse | None = None,
) -> list[Tensor]:
    """What judged cells show after each of ``steps`` steps, [J, B] each, and as the last item all rows' states.

    Begins with nothing, or goes on from ``rows`` at step ``first`` of the counters; event-driven with ``sparse``.
    """
    ids = torch.arange(len(codes), device=model.wiring.order.device) + first * len(codes)
    masks = FireMasks(config.seed ^ HELD_OUT, ids, config.lattice.fire, model.wiring.order)
    seen: list[Tensor] = []
    last = rollout(
        *(model, empty_rows(model, len(codes)) if rows is None else rows, steps, masks),
        injection(model, target, codes),
        segment=1,
        dtype=torch_dtype(precision),
        whole=is_whole(config),
        sparse=sparse,
        after=lambda _step, state: seen.append(shown(model, target, state)),
    )
    return [*seen, last]


@torch.no_grad()
def evaluate_lattice(
    config: LatticeTrainConfig,
    model: Lattice,
    target: Target,
    precision: Precision,
    full: bool = False,
    sparse: float | None = None,
) -> dict[str, Any]:
    """Scores on ``eval_volumes`` volumes with codes drawn for evaluation.

    For ``surface``: ``loss`` and ``accuracy`` at twice the depth. For ``growth``: ``loss`` and ``overlap`` at the last
    of ``time``. With ``full`` also: ``by_time`` (the score after 1, 2, … steps), ``without_links`` and, for ``growth``,
    ``persists`` (at 4 and 16 times as many steps), ``recovers`` (as many steps after damage) and ``constant`` (the
    overlap of the best answer that knows no code). ``surface`` tells ``distance`` and the score of cells ``below`` and
    ``within`` their light cone. With ``sparse``, a threshold, steps are event-driven, and ``computed`` is the share of
    the cell updates that were computed.
    """
    events: list[Sparse] = []

    def over_time(model: Lattice, steps: int, **more: Any) -> list[Tensor]:
        if sparse is not None:
            events.append(Sparse(sparse))
            more["sparse"] = events[-1]
        return states_over_time(config, model, target, codes, steps, precision, **more)

    ids = np.arange(config.eval_volumes)
    codes = target.draw(config.seed ^ HELD_OUT, ids)
    wanted = torch.from_numpy(target.wanted(codes)).to(model.wiring.order.device)
    surface = isinstance(target, Surface)
    score = accuracy if surface else overlap
    steps = 2 * config.lattice.size[2] if surface else config.time[1]
    longest = (3 * config.lattice.size[2] if surface else steps) if full else steps
    *frames, rows = over_time(model, longest)
    at = frames[steps - 1]
    name = "accuracy" if surface else "overlap"
    found: dict[str, Any] = {
        "loss": float(misses(at, wanted)) / len(ids),
        name: float(score(at, wanted).mean()),
        "steps_run": steps,
    }
    if not full:
        return found | _computed(events)
    found["by_time"] = [float(score(frame, wanted).mean()) for frame in frames]
    found["distance"] = [int(target.distance.min()), int(target.distance.max())]
    cut = _without_links(config, model)
    found["without_links"] = float(score(over_time(cut, steps)[steps - 1], wanted).mean())
    if surface:
        right = torch.stack([((frame > 0) == (wanted > 0)).double().mean(1) for frame in frames]).cpu().numpy()
        reached = np.arange(1, len(frames) + 1)[:, None] >= target.distance[None]
        found["below"], found["within"] = float(right[~reached].mean()), float(right[reached].mean())
        return found | _computed(events)
    persists = {}
    for times in (4, 16):
        *later, _ = over_time(model, times * steps)
        persists[str(times)] = float(score(later[-1], wanted).mean())
    found["persists"] = persists
    gone = torch.from_numpy(damaged_cells(config.lattice.size, config.seed ^ HELD_OUT, ids)).to(rows.device)
    hurt = rows.clone()
    hurt[model.wiring.row_of] = rows[model.wiring.row_of] * ~gone[:, :, None]
    *healed, _ = over_time(model, steps, rows=hurt, first=1)
    found["damaged"] = float(score(shown(model, target, hurt), wanted).mean())
    found["recovers"] = [float(score(frame, wanted).mean()) for frame in healed]
    found["constant"] = _constant(wanted)
    return found | _computed(events)


def _computed(events: list[Sparse]) -> dict[str, float]:
    """The share of cell updates that event-driven rollouts computed; empty where there were none."""
    if not events:
        return {}
    return {"computed": sum(each.computed for each in events) / sum(each.possible for each in events)}


def _without_links(config: LatticeTrainConfig, model: Lattice) -> Lattice:
    """The same weights, in cells that see nobody."""
    cut = Lattice(config.lattice.model_copy(update={"links": False}))
    cut.load_state_dict(model.state_dict())
    cut.to_device(model.wiring.order.device)
    assert cut.wiring.rows == wire(config.lattice).rows
    return cut


def _constant(wanted_JB: Tensor) -> float:
    """The best mean overlap of one shape with all wanted ones, among thresholds of their mean."""
    mean = (wanted_JB > 0).double().mean(1)
    best = 0.0
    for level in mean.unique():
        guess = torch.where(mean >= level, 1.0, -1.0)[:, None].expand_as(wanted_JB)
        best = max(best, float(overlap(guess, wanted_JB).mean()))
    return best
