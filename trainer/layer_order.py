"""In which order a model's layers run: each once, or a range of them again, with the same weights.

Where ``ModelShape.repeat`` names layers ``first`` to ``last``, they run, then run again ``times`` times, and then the
layers after them: depth that costs no parameters (Dehghani et al. 2019, arXiv 1807.03819; public runs on little text,
github.com/qlabs-eng/slowrun, repeat a range of layers from some epoch on). A run may begin without (see
``trainer.epochs.repeats_from``).
"""

from __future__ import annotations

from trainer.config import ModelShape


def layer_order(shape: ModelShape, repeating: bool = True) -> list[int]:
    """The number of each layer as it runs, from the first to the last."""
    if shape.repeat is None or not repeating:
        return list(range(shape.layers))
    first, after = shape.repeat.first, shape.repeat.last + 1
    return [*range(after), *list(range(first, after)) * shape.repeat.times, *range(after, shape.layers)]
