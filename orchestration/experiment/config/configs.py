"""From a cell and a seed to the two training configurations of an arm, and the hash of what factors leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datalake import digest_of
from orchestration.errors import ExperimentError
from orchestration.experiment.config import shared
from orchestration.experiment.config.levels import effective_optimizer, mixed, staged, transfers_weights
from trainer import TrainConfig, parse_config
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from orchestration.experiment.config.file import ExperimentFile

Table = dict[str, Any]

NAME_DIGITS = 12

SHARED_WITHOUT = (
    *("seed", "publish", "tensorboard", "transfer", "optimizer.name", "optimizer.lr", "optimizer.muon"),
    # Names of data are no content, and a vocabulary follows from the data: the digests and the parameter count are
    # among the checks.
    *("data", "eval", "model.vocab_size"),
)
"""Paths of a language configuration that factors, seed and prepared data set."""


@dataclass(frozen=True)
class Refs:
    """What the prepared data is called: the target, and (train, gate or held-out) by level of ``pre``.

    ``vocab_size`` is the largest of all, which a model needs that reads both kinds in one run; ``rows`` says how many
    rows a held-out dataset or a gate has, where that is known.
    """

    train: str = "target@1"
    heldout: str = "target-heldout@1"
    pre: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    vocab_size: int = 65_536  # where nothing is prepared yet, as in a dry run
    rows: Mapping[str, int] = field(default_factory=dict)

    def of(self, level: str) -> tuple[str, str]:
        """The data behind a level of ``pre``; ``stats`` takes its statistics from a model of ``nca``."""
        return self.pre.get(data_level(level), ("synthetic@1", "synthetic-gate@1"))


def data_level(level: str) -> str:
    """The level whose data (and so whose pre-pre-training run) this one uses."""
    return "nca" if level == "stats" else level


def has_stage(cell: Mapping[str, str]) -> bool:
    """Whether the arm's language run starts from another run's model."""
    return staged(cell) and cell["pre"] != "none"


def pre_config(file: ExperimentFile, cell: Mapping[str, str], seed: int, refs: Refs) -> TrainConfig:
    """The pre-pre-training of a cell that has one. It publishes under a name made of its own digest."""
    data, gate = refs.of(cell["pre"])
    name = cell["pre_optimizer"]
    optimizer = _merged(file.pre.train.get("optimizer", {}), file.pre.optimizers.get(name, {}), {"name": name})
    fixed = {
        "model": _merged(file.model, file.pre.model),
        "data": [{"dataset": data}],
        "eval": [gate],
        "eval_sequences": _at_most(file.pre.gate_sequences, refs, gate),
        "seed": seed,
        "optimizer": optimizer,
    }
    if (level := data_level(cell["pre"])) in file.pre.loss_masks:
        fixed["loss_mask"] = file.pre.loss_masks[level]
    defaults = {"eval_every": file.pre.train.get("steps", 1)}
    return _published("pre", parse_config(defaults | file.pre.train | fixed))


def language_config(
    file: ExperimentFile,
    cell: Mapping[str, str],
    seed: int,
    refs: Refs,
    *,
    source: str | None,
    rate: float | None = None,
    steps: int | None = None,
) -> TrainConfig:
    """The language run of a cell: ``source`` is the model it starts from, if the cell has a stage before it.

    ``rate`` is the learning rate that a sweep chose, ``steps`` the shorter length of a sweep's trial.
    """
    train = {key: value for key, value in file.train.items() if key != "transfer"}
    name = effective_optimizer(cell)
    optimizer = _merged(train.get("optimizer", {}), _brought(file, name), {"name": name})
    if rate is not None:
        optimizer["lr"] = rate
    if cell["decay"] == "none":
        optimizer["weight_decay"] = 0.0
    model = dict(file.model)
    if any(mixed(other) for other in file.cells):
        # All arms or none: another vocabulary is another number of parameters.
        model["vocab_size"] = refs.vocab_size
    fixed: Table = {"model": model, "data": _data(file, cell, refs), "eval": [refs.heldout], "seed": seed}
    if has_stage(cell):
        what = "stats" if cell["pre"] == "stats" else cell["transfer"]
        fixed["transfer"] = {**file.train.get("transfer", {}), "source": source, "what": what}
        if cell["decay"] == "to-transferred" and transfers_weights(cell):
            fixed["transfer"]["decay_toward"] = "source"
    if steps is not None:
        fixed["steps"] = steps
        train.pop("ensemble", None)  # a trial has not as many checkpoints
    if "eval_sequences" in train:
        fixed["eval_sequences"] = _at_most(train["eval_sequences"], refs, refs.heldout)
    config = parse_config(train | fixed | {"optimizer": optimizer})
    return _published("arm", config) if file.publish else config


def shared_hash(file: ExperimentFile, config: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a language configuration, as it ran, less what factors and seed set."""
    return shared.shared_hash(config, shared_without(file))


def shared_without(file: ExperimentFile) -> tuple[str, ...]:
    """The dotted paths that ``shared_hash`` leaves out for this file."""
    brought = {f"optimizer.{key}" for table in file.optimizers.values() for key in table}
    if "none" in file.factors.get("decay", ()):
        brought.add("optimizer.weight_decay")
    return tuple(sorted({*SHARED_WITHOUT, *brought}))


def check_configs(file: ExperimentFile) -> None:
    """Build every configuration once with stand-in data. Raises ExperimentError naming the cell that is refused."""
    for key in file.train.get("transfer", {}):
        if key not in ("freeze_steps", "ramp_steps"):
            raise ExperimentError(
                f"train.transfer.{key}: set by the factors; only freeze_steps and ramp_steps may stand"
            )
    if not file.cells:
        raise ExperimentError("factors: no combination of these levels makes an arm; see the module levels")
    for cell in file.cells:
        shown = " · ".join(level for level in cell.values() if level != "-")
        trials: list[tuple[float | None, int | None]] = [(None, None)]
        if file.sweep is not None:
            trials += [(rate, file.sweep.steps) for rate in file.sweep.lr[effective_optimizer(cell)]]
        try:
            if has_stage(cell):
                pre_config(file, cell, 0, Refs())
            for rate, steps in trials:
                language_config(file, cell, 0, Refs(), source="model@1", rate=rate, steps=steps)
        except ConfigError as error:
            raise ExperimentError(f"arm {shown}: {error}") from error


def _data(file: ExperimentFile, cell: Mapping[str, str], refs: Refs) -> list[Table]:
    if cell["pre"] == "none" or not mixed(cell):
        return [{"dataset": refs.train}]
    share: Table = {"dataset": refs.of(cell["pre"])[0], "weight": file.mixing.share, "share": cell["mixing"]}
    if cell["mixing"] == "annealed":
        share["until_fraction"] = file.mixing.until_fraction
    return [{"dataset": refs.train, "weight": 1 - file.mixing.share}, share]


def _brought(file: ExperimentFile, optimizer: str) -> Table:
    """What an optimiser brings along; ``hybrid`` what ``muon`` does, which is what it is compared with."""
    return file.optimizers.get(optimizer) or file.optimizers.get("muon" if optimizer == "hybrid" else optimizer, {})


def _at_most(sequences: Any, refs: Refs, dataset: str) -> Any:
    """A held-out set may be shorter than what is asked of it; the configuration then says what is scored."""
    return min(sequences, refs.rows.get(dataset, sequences)) if isinstance(sequences, int) else sequences


def _published(stem: str, config: TrainConfig) -> TrainConfig:
    """The same, publishing under a name that is a function of the rest: equal runs make one model."""
    digest = digest_of(config.model_dump(mode="json"))
    return config.model_copy(update={"publish": f"{stem}-{digest[:NAME_DIGITS]}"})


def _merged(*tables: Mapping[str, Any]) -> Table:
    """Later tables win; tables within tables are merged in the same way."""
    merged: Table = {}
    for table in tables:
        for key, value in table.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = _merged(merged[key], value) if both else value
    return merged
