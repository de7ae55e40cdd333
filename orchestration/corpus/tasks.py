"""A task with exact answers as a target: its training and held-out sequences in the lake, where text would be.

A task is a family of the generator that says which of its tokens are answers (`generator.TASKS`). Training reads seed
s, held-out data seed s + 1, so the two share no sequence but by chance. Made in this process: tasks are quick to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datalake import (
    DatasetVersion,
    Lake,
    Manifest,
    check_name,
    shard_layout,
)
from datalake.errors import NotFoundError
from generator import (
    GENERATOR_VERSION,
    TASKS,
    GenerationSpec,
    answer_mask,
    check_acceptance,
    parse_spec,
)
from generator.families import procedural
from orchestration.cluster.cores import local_cores
from orchestration.errors import CorpusError
from orchestration.generation.worker import ShardWorker, plan_dataset, stored
from orchestration.toml_files import read_toml

SHARD_SEQUENCES = 4096
HELDOUT_SEQUENCES = 1024

NAMED: dict[str, dict[str, str]] = {
    **{task: {"family": "procedural", "task": task} for task in procedural.TASKS},
    "sorting": {"family": "procedural", "task": "sort"},
    "addition": {"family": "arithmetic", "task": "addition"},
    "multiplication": {"family": "arithmetic", "task": "multiplication"},
    **{task: {"family": task} for task in ("markov", "needle", "linear-function")},
}
"""What a task's name stands for."""

Advance = Callable[[str, int, int], None]


def task_spec(task: str | Mapping[str, Any], folder: Path = Path()) -> GenerationSpec:
    """The spec of a task: one of NAMED with its defaults, a TOML file (relative to ``folder``), or a table of fields.
    CorpusError for what is no task; the generator's SpecError for bad fields."""
    if not isinstance(task, str):
        fields: Mapping[str, Any] = task
    elif task.endswith(".toml"):
        fields = read_toml(folder / task)
    elif task in NAMED:
        fields = NAMED[task]
    else:
        raise CorpusError(
            f"task: {task!r} is unknown; allowed are {', '.join(NAMED)}, or a TOML file with a spec; choose one"
        )
    spec = parse_spec(fields)
    if answer_mask(spec.model_dump(mode="json")) is None:
        raise CorpusError(
            f"task: family {spec.family!r} asks for no answers; allowed are {', '.join(TASKS)}; choose one of them"
        )
    return spec


def add_task(
    lake: Lake,
    name: str,
    spec: GenerationSpec,
    sequences: int,
    *,
    heldout_sequences: int = HELDOUT_SEQUENCES,
    seed: int = 0,
    message: str = "",
    progress: Advance | None = None,
) -> tuple[DatasetVersion, DatasetVersion]:
    """Make a task's datasets ``name`` and ``name``-heldout, or find them: the train and the held-out version.

    The spec becomes parameter set ``name``. ``progress`` is told (stage, sequences done, sequences in all). Raises
    CorpusError for numbers out of range, and what names, the lake and the generator raise.
    """
    for field, value in (("sequences", sequences), ("heldout_sequences", heldout_sequences)):
        if value < 1:
            raise CorpusError(f"{field} = {value}: allowed is 1 or more; give more")
    if not 0 <= seed < (1 << 63) - 1:
        raise CorpusError(f"seed = {seed}: allowed is 0 to 2**63 - 2; choose another")
    for dataset in (name, f"{name}-heldout"):
        check_name(dataset, "dataset")
    lake.check_writable()
    check_acceptance(spec)
    params = lake.params.put(name, spec.model_dump(mode="json"), message=message)
    made = {}
    # Held-out first, so that whoever sees train can evaluate on it.
    for dataset, count, drawn in ((f"{name}-heldout", heldout_sequences, seed + 1), (name, sequences, seed)):
        made[dataset] = find_synthetic(lake, dataset, spec.digest, drawn, count) or lake.datasets.commit(
            dataset, _make(lake, spec, drawn, count, dataset, progress), params=params.ref, message=message
        )
    return made[name], made[f"{name}-heldout"]


def find_synthetic(lake: Lake, name: str, digest: str, seed: int, sequences: int) -> DatasetVersion | None:
    """The version of ``name`` that generating (spec digest, seed, count) would commit, if it is there."""
    try:
        versions = lake.datasets.history(name)
    except NotFoundError:
        return None
    for version in versions:
        if version.sequences == sequences and not version.retired:
            source = lake.datasets.manifest(version).source
            if (source.spec_digest, source.seed, source.generator) == (digest, seed, GENERATOR_VERSION):
                return version
    return None


def _make(
    lake: Lake, spec: GenerationSpec, seed: int, sequences: int, title: str, progress: Advance | None
) -> Manifest:
    """Write the shards that are not there and name them all."""
    planned = plan_dataset(spec, seed, sequences, SHARD_SEQUENCES)
    worker = ShardWorker(lake, planned.source, "auto", local_cores(), title)
    made = []
    for first, rows in shard_layout(sequences, SHARD_SEQUENCES):
        made.append(worker.make(first, rows))
        if progress is not None:
            progress(title, first + rows, sequences)
    return stored(planned, made)
