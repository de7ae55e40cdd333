"""In which order a model's layers run: each once, or a range of them again, with the same weights.

Where ``ModelShape.repeat`` names layers ``first`` to ``last``, they run, then run again ``times`` times, and then the
layers after them: depth that costs no parameters (Dehghani et al. 2019, arXiv 1807.03819; public runs on little text,
github.com/qlabs-eng/slowrun, repeat a range of layers from some epoch on). A run may begin without: when it begins to
repeat is a pure function of its config.
"""

from __future__ import annotations

from trainer.config import ModelConfig, ModelShape
from trainer.errors import ConfigError


def layer_order(shape: ModelShape, repeating: bool = True) -> list[int]:
    """The number of each layer as it runs, from the first to the last."""
    if shape.repeat is None or not repeating:
        return list(range(shape.layers))
    first, after = shape.repeat.first, shape.repeat.last + 1
    return [*range(after), *list(range(first, after)) * shape.repeat.times, *range(after, shape.layers)]


def repeats_from(model: ModelConfig, horizon: int, steps: int) -> int:
    """How many updates are made before layers repeat: 0 where they always do, or there are none to repeat.

    ConfigError where a run of ``steps`` ends before that, since what it publishes repeats them.
    """
    if model.repeat is None or not model.repeat.times:
        return 0
    start = int(model.repeat.from_fraction * horizon)
    if start >= steps:
        raise ConfigError(
            f"model.repeat.from_fraction = {model.repeat.from_fraction}: layers would repeat after {start} updates, "
            f"the run has {steps}; lower it, or set model.repeat.times = 0"
        )
    return start
