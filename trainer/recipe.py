"""How weights change: optimiser, schedule, transfer and averaging, each a value with its own limits."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from trainer.config_model import ConfigModel, Listed, Pair, without_unset
from trainer.heads import WRITTEN, heads_of

DECAY_FRACTION = 0.2
TRANSFERS = ("all", "all+embed", "attn", "attn+norm", "mlp", "none", "stats")


class MuonConfig(ConfigModel):
    """Muon's own settings (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for matrices between features.

    ``adjust`` scales the update of an A × B matrix: ``match_rms_adamw`` by 0.2·sqrt(max(A, B)), so that AdamW's rate
    and decay serve both (Liu et al. 2025, arXiv 2502.16982); ``original`` by sqrt(max(1, A/B)), which wants a rate of
    its own near 0.02. ``lr`` left out is the optimiser's. Momentum rises in a line from ``momentum_start`` over the
    first ``momentum_warmup_steps`` updates: early gradients are soon out of date.
    """

    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    momentum_start: float = Field(default=0.85, ge=0, lt=1)
    momentum_warmup_steps: int = Field(default=300, ge=0)
    ns_steps: int = Field(default=5, ge=1, le=20)
    adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw"


class OptimizerConfig(ConfigModel):
    """Which rule moves which matrices, and how far.

    ``adamw`` moves everything (Loshchilov & Hutter 2019, arXiv 1711.05101); so does ``adamw8bit``, with moments
    in a quarter of the memory (extra ``lowbit``). ``muon`` moves hidden matrices by Muon and embedding, head and gains
    by AdamW. ``hybrid`` is ``muon`` with the transferred hidden matrices left to AdamW.
    Decay is decoupled: each update first shrinks a decayed matrix by rate · weight_decay. ``weight_decay`` itself goes
    in a line to ``weight_decay_final_fraction`` of its value over the run.
    """

    name: Literal["adamw", "adamw8bit", "muon", "hybrid"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    betas: Pair = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    weight_decay_final_fraction: float = Field(default=1.0, ge=0)
    grad_clip: float | None = Field(default=1.0, gt=0)
    muon: MuonConfig = MuonConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: both must lie in [0, 1)")
        if self.name not in ("muon", "hybrid") and self.muon != MuonConfig():
            raise ValueError(f"muon: set, but name = {self.name!r} does not read it; use name = 'muon' or 'hybrid'")
        return self


class CycleConfig(ConfigModel):
    """The last ``count`` stretches of a schedule, each of so many ``steps``, ``epochs`` or so large a ``fraction`` of
    it: within each the rate goes down to ``floor`` (of the base rate) by half a cosine from what the schedule says.

    Weights at the ends of cycles differ more than along a line, which is what averages of them live on (Huang et al.
    2017, arXiv 1704.00109; Izmailov et al. 2018, arXiv 1803.05407).
    """

    count: int = Field(ge=1)
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    fraction: float | None = Field(default=None, gt=0, le=1)
    floor: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "epochs", "fraction") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"cycle: its length is given by {' and '.join(given) or 'nothing'}; give one of steps, epochs, fraction"
            )
        if self.fraction is not None and self.count * self.fraction > 1:
            raise ValueError(f"cycle: count = {self.count} of fraction = {self.fraction} is more than all; lower one")
        return self


class ScheduleConfig(ConfigModel):
    """Learning-rate factor over steps; see ``trainer.schedule``. ``decay*`` are read by ``wsd`` only.

    ``steps`` is how long the schedule is where that is not the length of the run, and so what every fraction of a run
    is a fraction of (decay of the weight decay, mixture, averaging). In a longer run what follows is ``after``:
    ``constant`` (the last update's factors stay) or ``restart`` (the schedule begins anew, warm-up included, as often
    as it takes).

    ``warmup_epochs`` and ``decay_epochs`` are ``warmup_steps`` and ``decay_fraction`` in epochs of the run's one
    dataset (see ``trainer.epochs``).
    """

    steps: int | None = Field(default=None, ge=1)
    after: Literal["constant", "restart"] = "constant"
    name: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    warmup_epochs: float | None = Field(default=None, ge=0)
    decay: Literal["linear", "sqrt"] = "linear"
    decay_fraction: float = Field(default=DECAY_FRACTION, ge=0, le=1)
    decay_epochs: float | None = Field(default=None, ge=0)
    cycle: CycleConfig | None = None
    final_fraction: float = Field(default=0.1, ge=0, le=1)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields that came later where they say nothing: a config's digest is the identity of its run."""
        later = {"warmup_epochs": None, "decay_epochs": None, "cycle": None}
        return without_unset(handler(self), steps=None, after="constant", **later)

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.warmup_epochs is not None and self.warmup_steps:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs}: warmup_steps = {self.warmup_steps} says it too; give one"
            )
        if self.decay_epochs is not None and (self.name != "wsd" or self.decay_fraction != DECAY_FRACTION):
            other = "name = 'cosine'" if self.name != "wsd" else f"decay_fraction = {self.decay_fraction}"
            raise ValueError(
                f"decay_epochs = {self.decay_epochs}: is of wsd alone, for decay_fraction, and there is {other}; "
                "change one of them"
            )
        return self

    @property
    def in_epochs(self) -> str | None:
        """The first field that is stated in epochs, None where none is."""
        for name in ("warmup_epochs", "decay_epochs"):
            if getattr(self, name) is not None:
                return name
        return "cycle.epochs" if self.cycle is not None and self.cycle.epochs is not None else None


class TransferConfig(ConfigModel):
    """Start from model version ``source`` ("MODEL@V"); ``what`` moves is in ``trainer.transfer``.

    What moved stands still for ``freeze_steps`` updates, then its rate rises in a line to the full one over
    ``ramp_steps``. With ``decay_toward = "source"`` weight decay pulls it to the source's weights instead of zero.
    """

    source: str
    what: str = "attn"
    freeze_steps: int = Field(default=0, ge=0)
    ramp_steps: int = Field(default=0, ge=0)
    decay_toward: Literal["zero", "source"] = "zero"

    @field_validator("what")
    @classmethod
    def _known(cls, what: str) -> str:
        if what not in TRANSFERS and heads_of(what) is None:
            allowed = f"{', '.join(TRANSFERS)} and heads: {WRITTEN}"
            raise ValueError(f"transfer.what = {what!r}: moves nothing; allowed are {allowed}")
        return what

    @model_validator(mode="after")
    def _moves_whole_tensors(self) -> Self:
        if heads_of(self.what) is None:
            return self
        for field, value, neutral in (
            ("freeze_steps", self.freeze_steps, 0),
            ("ramp_steps", self.ramp_steps, 0),
            ("decay_toward", self.decay_toward, "zero"),
        ):
            if value != neutral:
                raise ValueError(
                    f"{field} = {value!r}: acts on whole tensors, and what = {self.what!r} is a part of some; leave "
                    "it out, or set what = 'attn'"
                )
        return self

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.decay_toward == "source" and self.what in ("none", "stats"):
            raise ValueError(
                f"decay_toward = 'source': what = {self.what!r} moves no weights to decay to; leave it out"
            )
        return self


class TasksConfig(ConfigModel):
    """Tasks of lm-evaluation-harness (extra ``eval``) that the run is scored on wherever it is evaluated.

    ``names`` are tasks, groups or patterns of names; ``include`` is a folder with task files of one's own. ``fewshot``
    examples stand before each question; ``limit`` bounds the questions of a task.
    """

    names: Listed[str] = Field(min_length=1)
    include: str | None = None
    fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)


class EnsembleConfig(ConfigModel):
    """What the last ``checkpoints`` of a run predict together, scored at its end; see ``trainer.ensemble``.

    ``mean`` says of what: their logits, or their probabilities.
    """

    checkpoints: int = Field(ge=2, le=64)
    mean: Literal["logits", "probabilities"] = "logits"


class AverageConfig(ConfigModel):
    """Averaged weights, which are then what is evaluated and published.

    ``ema`` follows the weights with ``decay`` at each update (Polyak & Juditsky 1992); ``late`` is the plain mean of
    the weights after every ``every``-th update (Izmailov et al. 2018, arXiv 1803.05407). Both begin once
    ``start_fraction`` of the run is done.
    """

    name: Literal["ema", "late"] = "ema"
    decay: float = Field(default=0.999, ge=0, lt=1)
    every: int = Field(default=1, ge=1)
    start_fraction: float = Field(default=0.0, ge=0, lt=1)
