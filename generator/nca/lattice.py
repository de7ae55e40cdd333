"""The integer lattice a rule lives on: how many bits each stage keeps, and what one lattice step is worth in floats.

Weights are integers q in [-62, 62]. With Q = 62 and `wrap` = 2 where the channel wrap adds two kernels into one colour
(else 1), one entry of the folded table is at most Q*Q*embed*wrap; `table_shift` is the least rounding shift after
which the sum over the neighbourhood, rounding included, fits int16. `hidden_shift` brings a typical hidden value (one
standard deviation) to between 32 and 64, so that the clamp at 255 is met beyond four deviations. A logit is then at
most 255*Q*hidden < 2**21. The float network (LeCun-normal truncated at 2 sigma: standard deviation sqrt(1/fan_in)) is
recovered by `logit_unit`; its scale matters only against temperature and identity bias.
"""

import itertools
import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from generator.tables import WEIGHT_MAX, WEIGHT_STEPS, WEIGHT_VARIANCE

HIDDEN_MAX = 255
LOGIT_LIMIT = 1 << 22
# Standard deviation of a unit normal truncated at two sigma: LeCun init divides by it.
TRUNCATED_STD = Decimal("0.87962566103423978")
GUMBEL_BITS = 12


def neighbor_offsets(dimensions: int, kind: str) -> list[tuple[int, ...]]:
    """Relative positions in row-major order: 3**d for `moore`, the 2d + 1 that differ on one axis for `von_neumann`."""
    cube = list(itertools.product((-1, 0, 1), repeat=dimensions))
    return cube if kind == "moore" else [o for o in cube if sum(map(abs, o)) <= 1]


class _Compat(Protocol):
    @property
    def channel_wrap(self) -> bool: ...


class RuleFields(Protocol):
    """What of an `NcaSpec` fixes its lattice. The spec checks itself against the lattice, so it is not named here."""

    @property
    def grid(self) -> tuple[int, ...]: ...
    @property
    def neighborhood(self) -> str: ...
    @property
    def colors(self) -> int: ...
    @property
    def embed(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def compat(self) -> _Compat: ...
    @property
    def temperature(self) -> float: ...
    @property
    def identity_bias(self) -> float: ...


@dataclass(frozen=True)
class Lattice:
    """All integer constants of a spec's rules. `of(spec)` is cached."""

    neighbors: int
    colors: int
    embed: int
    hidden: int
    channel_wrap: bool
    temperature: float
    identity_bias: float

    @staticmethod
    def of(spec: RuleFields) -> "Lattice":
        count = len(neighbor_offsets(len(spec.grid), spec.neighborhood))
        return _lattice(
            count, spec.colors, spec.embed, spec.hidden, spec.compat.channel_wrap, spec.temperature, spec.identity_bias
        )

    @property
    def inputs(self) -> int:
        """Input channels of the convolution."""
        return self.colors + 2 if self.channel_wrap else self.colors

    @property
    def weight_counts(self) -> tuple[int, int, int]:
        """Weights of (convolution [n, input, e], first pointwise [e, h], second pointwise [h, c]), in stream order."""
        return self.neighbors * self.inputs * self.embed, self.embed * self.hidden, self.hidden * self.colors

    @cached_property
    def table_shift(self) -> int:
        """Rounding right shift of the folded table."""
        bound = WEIGHT_MAX * WEIGHT_MAX * self.embed * (2 if self.channel_wrap else 1)
        for shift in range(32):
            entry = (bound + (1 << shift >> 1)) >> shift
            if self.neighbors * entry + 2048 <= 32767:
                return shift
        raise AssertionError("no shift keeps the sum in int16")

    @cached_property
    def hidden_shift(self) -> int:
        """Rounding right shift of the sum over the neighbourhood; at most 12, so its rounding term is at most 2048."""
        variance = self.neighbors * self.embed * WEIGHT_VARIANCE**2 * self.inputs
        for shift in range(12):
            if variance <= (64**2 << (2 * (self.table_shift + shift))) * self.colors:
                return shift
        return 12

    @cached_property
    def logit_unit(self) -> Decimal:
        """One lattice logit in units of the float network's logits. Decimal, so that every machine rounds it alike."""
        with localcontext() as context:
            context.prec = 40
            unit = Decimal(1 << (self.table_shift + self.hidden_shift))
            for fan_in in (self.neighbors * self.inputs, self.embed, self.hidden):
                unit /= Decimal(fan_in).sqrt() * TRUNCATED_STD * Decimal(WEIGHT_STEPS)
            return unit

    @cached_property
    def identity_logit(self) -> int:
        """Lattice logit added to a cell's present colour."""
        return round(Decimal(self.identity_bias) / self.logit_unit)

    @cached_property
    def gumbel(self) -> np.ndarray:
        """int32 [4096]: temperature times -ln(-ln u) at the 4096 mid-quantiles u, in lattice logits."""
        scale = Decimal(self.temperature) / self.logit_unit
        return np.array([round(scale * g) for g in _gumbel_quantiles()], dtype=np.int32)

    @cached_property
    def logit_bound(self) -> int:
        """Largest absolute value that a logit with bias and noise can take."""
        noise = 0
        if self.temperature:
            noise = round(Decimal(self.temperature) / self.logit_unit * Decimal(10))
        return HIDDEN_MAX * WEIGHT_MAX * self.hidden + abs(self.identity_logit) + noise

    @property
    def color_bits(self) -> int:
        """Bits that hold a colour, for the argmax by plain maximum of (logit << color_bits) + (colors - 1 - colour)."""
        return max(1, math.ceil(math.log2(self.colors)))


@lru_cache(maxsize=256)
def _lattice(*fields: object) -> Lattice:
    return Lattice(*fields)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _gumbel_quantiles() -> tuple[Decimal, ...]:
    """-ln(-ln u) at u = (k + 1/2) / 4096, by decimal arithmetic, whose logarithm is correctly rounded everywhere."""
    size = 1 << GUMBEL_BITS
    with localcontext() as context:
        context.prec = 24
        return tuple(-(-((Decimal(2 * k + 1) / Decimal(2 * size)).ln())).ln() for k in range(size))
