"""An experiment as a TOML file: which factors are crossed over which corpus, and the two base configurations.

``[train]`` is the language stage and ``[pre.train]`` the one before it, both as ``TrainConfig`` tables; ``[model]``
serves both. What a factor or the seed decides may not stand in them. ``experiments/`` has examples with comments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from datalake import check_name, digest_of
from orchestration.experiment.config.levels import BUILT_IN, FIRST, LEVELS, Factors, cells, effective_optimizer, staged
from orchestration.experiment.result import FACTOR_ORDER, Metric
from trainer.config_model import ConfigModel, Listed, without_unset
from trainer.heads import heads_of
from trainer.mask import LossMask

Table = dict[str, Any]

# Set by factors, seeds and the prepared data; anything else of a TrainConfig may stand in a base table.
RESERVED = ("model", "data", "eval", "seed", "publish", "tasks", "tensorboard")

STAGE_MODEL = ("attention", "compile", "dropout", "recompute", "repeat", "window", "window_pattern")
"""Fields of a model that change none of its tensors, so that one stage may have them otherwise than the next."""


class Corpus(ConfigModel):
    """The target: datasets ``name`` and ``heldout`` of the lake, added from ``paths`` if there are any.

    A path is a file or folder, relative to the experiment's file, or ``python:stdlib``, the running interpreter's own
    library. Without paths ``name`` may be ``NAME@V``. With ``task`` (see ``corpus.tasks.task_spec``) the target is
    that task's ``sequences``, by default as many as a run reads, and the score is the accuracy of its answers.
    """

    name: str
    heldout: str | None = None
    paths: Listed[str] = ()
    patterns: Listed[str] = ("*",)
    tokenizer: str = "bytes"
    seq_len: int = Field(default=512, ge=2)
    heldout_fraction: float = Field(default=0.05, gt=0, lt=1)
    task: str | Table | None = None
    sequences: int | None = Field(default=None, ge=1)
    heldout_sequences: int = Field(default=1024, ge=1)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a task alone has: a file's digest names its experiment."""
        return without_unset(handler(self), task=None, sequences=None, heldout_sequences=1024)

    @model_validator(mode="after")
    def _task(self) -> Self:
        if self.task is not None and (self.paths or self.heldout is not None):
            raise ValueError("task: a task makes its own data; leave paths and heldout out")
        if self.task is None and self.sequences is not None:
            raise ValueError("sequences: is of a task; name it by `task`, or leave `sequences` out")
        if self.task is not None:
            check_name(self.name, "corpus")
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.paths:
            check_name(self.name, "corpus")
            if self.heldout is not None:
                raise ValueError(f"heldout = {self.heldout!r}: a corpus added from paths makes its own; leave it out")
        return self


class Pre(ConfigModel):
    """The stage before language. ``spec`` (a table, preset, file or ``NAME@V``) is level ``nca`` and what ``shuffled``,
    ``iid`` and ``stats`` are made of; ``specs`` names further levels; ``corpus`` is level ``text``, by default the
    target.

    ``model`` says where this stage's model differs from ``[model]`` without being another one (STAGE_MODEL): layers
    that do not repeat yet are ``repeat = { times = 0 }``.

    ``tokens`` are generated once for all seeds: by default as many as the stage reads. ``optimizers`` holds, by name,
    what an optimiser brings along, its rate among it; ``loss_masks``, by level, which predictions count where the table
    ``train`` cannot say it for all: frames and answers are asked for in different ways.
    """

    spec: str | Table | None = None
    specs: dict[str, str | Table] = Field(default_factory=dict)
    corpus: str | None = None
    tokens: int | None = Field(default=None, ge=1)
    gate_sequences: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0)
    model: Table = Field(default_factory=dict)
    train: Table = Field(default_factory=dict)
    optimizers: dict[str, Table] = Field(default_factory=dict)
    loss_masks: dict[str, LossMask] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later where there is none: a file's digest names its experiment."""
        return without_unset(handler(self), loss_masks={}, model={})


class Mixing(ConfigModel):
    """How synthetic data is mixed into the language run: its share of the rows, and where an annealed one ends."""

    share: float = Field(default=0.2, gt=0, lt=1)
    until_fraction: float = Field(default=0.5, gt=0, le=1)


class Sweep(ConfigModel):
    """Rates tried for every cell: as many for each optimiser, at a seed that is not reported, for ``steps`` updates."""

    lr: dict[str, Listed[float]]
    seed: int = Field(ge=0)
    steps: int | None = Field(default=None, ge=1)


class Power(ConfigModel):
    """What the smallest detectable effect is computed from; ``sd`` is of a paired difference, in the metric's unit.

    An interval that lies within ±``margin`` is a verdict of its own.
    """

    sd: float | None = Field(default=None, gt=0)
    source: str = "assumed"
    alpha: float = Field(default=0.05, gt=0, lt=1)
    power: float = Field(default=0.8, gt=0, lt=1)
    margin: float | None = Field(default=None, gt=0)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a margin where there is none: a file's digest names its experiment."""
        return without_unset(handler(self), margin=None)


class Auto(ConfigModel):
    """How ``seeds = "auto"`` chooses: as many pairs as find ``effect`` (in the metric's unit) with ``[power] power``.

    Their spread is a pilot's: of ``pilot_pairs`` pairs that are run first, at seeds of their own that no verdict reads,
    or, with ``pilot_sd``, of that many that were run before ([power] source says where). There are no more pairs than
    the budget allows, of which at least one is given: ``pairs``, ``tokens`` (trained on, the pilot's among them) or
    ``hours`` (of training on this machine, as the pilot measured it). The pairs are looked at ``looks`` times, and no
    more are run once every primary comparison is decided (see ``analysis.sequential``).
    """

    effect: float = Field(gt=0)
    pilot_pairs: int = Field(default=4, ge=3, le=100)
    pilot_sd: float | None = Field(default=None, gt=0)
    pairs: int | None = Field(default=None, ge=3, le=1000)
    tokens: float | None = Field(default=None, gt=0)
    hours: float | None = Field(default=None, gt=0)
    looks: int = Field(default=3, ge=1, le=10)

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if self.pairs is None and self.tokens is None and self.hours is None:
            raise ValueError("pairs: missing; give a budget, as pairs, tokens or hours")
        if self.hours is not None and self.pilot_sd is not None:
            raise ValueError(
                f"hours = {self.hours:g}: are measured in a pilot that is run; leave pilot_sd or hours out"
            )
        return self


class Machine(ConfigModel):
    """CPU threads of an arm (bits depend on it, so it is fixed), and how many arms share a GPU."""

    threads: int = Field(default=1, ge=1)
    arms_per_gpu: int = Field(default=1, ge=1)


class ExperimentFile(ConfigModel):
    """The file, checked. ``digest`` is of what it says, ``file_digest`` of its bytes.

    ``primary`` names the comparisons that share the error rate, by levels of the treatment: "nca" (against the
    baseline) or "nca vs shuffled"; the others are exploratory. Without it all are primary. With ``seeds = "auto"``
    (here: none) the table ``auto`` says how they are chosen.
    """

    name: str
    question: str = ""
    seeds: Listed[int]
    auto: Auto | None = None
    factors: dict[str, Listed[str]]
    treatment: str = "pre"
    baseline: dict[str, str] = Field(default_factory=dict)
    primary: Listed[str] = ()
    corpus: Corpus
    model: Table
    pre: Pre = Pre()
    train: Table
    optimizers: dict[str, Table] = Field(default_factory=dict)
    mixing: Mixing = Mixing()
    sweep: Sweep | None = None
    power: Power = Power()
    machine: Machine = Machine()
    publish: bool = True
    folder: Path = Field(default=Path(), exclude=True)
    file_digest: str = Field(default="", exclude=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of what the file says, defaults included."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def metric(self) -> Metric:
        """What arms are compared by: the accuracy of a task's answers, otherwise the loss."""
        return "loss" if self.corpus.task is None else "accuracy"

    @property
    def cells(self) -> list[Factors]:
        """The cells that are arms, without seeds."""
        return list(cells(self.factors))

    @property
    def primary_comparisons(self) -> int:
        """How many comparisons share the error rate: those named, in each cell of the other factors, or all that have a
        baseline."""
        base = self.reference[self.treatment]
        treated = [cell[self.treatment] for cell in self.cells if cell[self.treatment] != base]
        named = [said.partition(" vs ")[0] for said in self.primary] or list(dict.fromkeys(treated))
        return max(1, sum(treated.count(level) for level in named))

    @property
    def reference(self) -> dict[str, str]:
        """The baseline's level of every factor: ``none`` of ``pre`` if crossed, otherwise the first one given."""
        first = {name: (self.factors.get(name) or (FIRST[name],))[0] for name in FACTOR_ORDER}
        if "none" in self.factors["pre"]:
            first["pre"] = "none"
        return first | self.baseline

    @field_validator("seeds", mode="before")
    @classmethod
    def _auto_seeds(cls, value: Any) -> Any:
        return () if value == "auto" else value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "experiment")

    @model_validator(mode="after")
    def _factors(self) -> Self:
        if "pre" not in self.factors:
            raise ValueError("factors.pre: missing; list its levels, 'none' among them")
        for name, levels in self.factors.items():
            if name not in FACTOR_ORDER:
                raise ValueError(f"factors.{name}: no factor; the factors are {', '.join(FACTOR_ORDER)}")
            allowed = (*BUILT_IN, *self.pre.specs) if name == "pre" else LEVELS[name]
            if name == "transfer":
                allowed = (*allowed, "head-LAYER.HEAD", *(level for level in levels if heads_of(level) is not None))
            _check_levels(f"factors.{name}", levels, allowed)
        if (not self.seeds) != (self.auto is not None):
            raise ValueError(
                "seeds = 'auto': needs a table [auto] with an effect and a budget; add it"
                if not self.seeds
                else "auto: says how seeds are chosen, but seeds are given; set seeds = 'auto' or remove the table"
            )
        _check_levels("seeds", [str(seed) for seed in self.seeds] or ["auto"])
        if min(self.seeds, default=0) < 0:
            raise ValueError(f"seeds = {list(self.seeds)}: a seed is at least 0; change it")
        if taken := sorted({*self.pre.specs} & {*BUILT_IN} - {"dyck", "shuffle-dyck"}):
            raise ValueError(f"pre.specs.{taken[0]}: the name of a built-in level; give the spec another name")
        if self.treatment not in self.factors:
            raise ValueError(f"treatment = {self.treatment!r}: not crossed; name one of {', '.join(self.factors)}")
        for name, level in self.baseline.items():
            if level not in self.factors.get(name, ()):
                raise ValueError(
                    f"baseline.{name} = {level!r}: not a level of that factor in this file; add or mend it"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``primary`` where all are, and without ``auto``: a file's digest names its experiment."""
        fields = without_unset(handler(self), auto=None)
        return {name: value for name, value in fields.items() if name != "primary" or value}

    @model_validator(mode="after")
    def _primary(self) -> Self:
        levels = self.factors.get(self.treatment, ())
        base = self.reference[self.treatment]
        if self.auto is not None and not self.primary:
            raise ValueError("primary: missing; with seeds = 'auto' name the comparisons that pairs are planned for")
        for said in self.primary:
            level, _, against = said.partition(" vs ")
            if level not in levels or level == base or (against or base) not in levels or against == level:
                others = ", ".join(each for each in levels if each != base)
                raise ValueError(
                    f"primary: {said!r} is no comparison of {self.treatment}; allowed are {others}, or LEVEL vs LEVEL; "
                    "change it"
                )
        return self

    @model_validator(mode="after")
    def _stages(self) -> Self:
        for place, table in (("train", self.train), ("pre.train", self.pre.train)):
            for key in RESERVED:
                if key in table:
                    raise ValueError(f"{place}.{key}: set by the experiment itself; remove it")
        for key in self.pre.model:
            if key not in STAGE_MODEL:
                raise ValueError(
                    f"pre.model.{key}: would make it another model; allowed are {', '.join(STAGE_MODEL)}; set "
                    "the rest in [model]"
                )
        needs_spec = {"nca", "shuffled", "iid", "stats"} & {*self.factors["pre"]}
        for level in self.pre.loss_masks:
            if level not in self.factors["pre"] or level == "none":
                raise ValueError(
                    f"pre.loss_masks.{level}: no level of factors.pre with a stage before; remove or mend it"
                )
        if needs_spec and self.pre.spec is None:
            raise ValueError(f"pre.spec: missing, but level {min(needs_spec)!r} of factors.pre needs it; give a spec")
        if {*self.factors["pre"]} - {"none"} and "steps" not in self.pre.train and self._has_stage():
            raise ValueError("pre.train.steps: missing; say how long the pre-pre-training is")
        return self

    @model_validator(mode="after")
    def _rates(self) -> Self:
        if self.sweep is None:
            return self
        if self.sweep.seed in self.seeds:
            raise ValueError(
                f"sweep.seed = {self.sweep.seed}: also a reported seed; rates must be chosen on another one"
            )
        wanted = sorted({effective_optimizer(cell) for cell in self.cells})
        for name in wanted:
            if not self.sweep.lr.get(name):
                raise ValueError(f"sweep.lr.{name}: missing; list as many rates as for the other optimisers")
        counts = {name: len(self.sweep.lr[name]) for name in wanted}
        if len({*counts.values()}) > 1:
            raise ValueError(f"sweep.lr: {counts} rates; every arm gets as many trials, so give each optimiser as many")
        return self

    def _has_stage(self) -> bool:
        return any(staged(cell) and cell["pre"] != "none" for cell in self.cells)


def _check_levels(place: str, levels: Sequence[str], allowed: Sequence[str] | None = None) -> None:
    if not levels:
        raise ValueError(f"{place}: empty; give at least one level")
    for level in levels:
        if allowed is not None and level not in allowed:
            raise ValueError(f"{place}: {level!r} is no level; allowed are {', '.join(allowed)}")
    if len({*levels}) < len(levels):
        raise ValueError(f"{place} = {list(levels)}: one is there twice; remove it")
