"""What an experiment reads, brought into the lake: the corpus, and per level of ``pre`` its sequences and its gate's.

Synthetic datasets are named by their spec's digest and seed, so that experiments share them, and with them the
pre-pre-training runs whose configurations name them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datalake import DatasetVersion, Lake
from generator import GenerationSpec, parse_spec
from generator.presets import list_presets, load_preset
from orchestration.console.progress import corpus_stages, stage
from orchestration.corpus.add import add_corpus, stdlib_files
from orchestration.corpus.tasks import add_task, find_synthetic, task_spec
from orchestration.errors import ExperimentError
from orchestration.experiment.config.configs import NAME_DIGITS, Refs, data_level
from orchestration.experiment.config.file import Corpus, ExperimentFile
from orchestration.experiment.config.levels import mixed
from orchestration.generation.job import run_generation
from orchestration.generation.local import generate_here
from orchestration.generation.request import GenerateRequest
from orchestration.runs.signals import Stop
from orchestration.toml_files import read_toml

STDLIB = "python:stdlib"

SHARD_SEQUENCES = 1024


def prepare(lake: Lake, file: ExperimentFile, stop: Stop | None = None, *, ray: bool = True) -> Refs:
    """Add and generate what is missing, on a running Ray or in this process. Raises ExperimentError, what corpora and
    specs raise, and JobStopped once ``stop`` is set.

    Everything is found again by content, so doing it twice changes nothing.
    """
    if file.corpus.task is None:
        train, heldout = prepare_corpus(lake, file.corpus, file.folder)
    else:
        train, heldout = prepare_task(lake, file)
    pre: dict[str, tuple[DatasetVersion, DatasetVersion]] = {}
    for level in pre_levels(file):
        if level == "text":
            pre[level] = _existing(lake, file.pre.corpus, None) if file.pre.corpus else (train, heldout)
        else:
            spec = level_spec(lake, file, level)
            tokens = file.pre.tokens or _stage_tokens(file, spec.seq_len)
            pre[level] = prepare_synthetic(
                lake, spec, file.pre.seed, tokens, file.pre.gate_sequences, level, stop, ray=ray
            )
    manifests = {
        each.ref: lake.datasets.manifest(each) for each in (train, heldout, *(d for p in pre.values() for d in p))
    }
    for cell in file.cells:
        if mixed(cell) and cell["pre"] != "none":
            length, wanted = manifests[pre[cell["pre"]][0].ref].seq_len, manifests[train.ref].seq_len
            if length != wanted:
                raise ExperimentError(
                    f"pre level {cell['pre']!r}: sequences of {length} tokens cannot be mixed with text of {wanted}; "
                    "give the spec the corpus's seq_len"
                )
    return Refs(
        train=train.ref,
        heldout=heldout.ref,
        pre={level: (data.ref, gate.ref) for level, (data, gate) in pre.items()},
        vocab_size=max(manifest.vocab_size for manifest in manifests.values()),
        rows={ref: manifest.sequences for ref, manifest in manifests.items()},
    )


def pre_levels(file: ExperimentFile) -> list[str]:
    """The levels of ``pre`` whose data some arm reads, in the file's order."""
    return list(dict.fromkeys(data_level(cell["pre"]) for cell in file.cells if cell["pre"] != "none"))


def level_spec(lake: Lake, file: ExperimentFile, level: str) -> GenerationSpec:
    """The generation spec of a level of ``pre`` other than ``none`` and ``text``."""
    if level in file.pre.specs:
        return read_spec(lake, file.pre.specs[level], file.folder)
    base: Any = read_spec(lake, file.pre.spec or {}, file.folder)
    if level == "nca":
        return base
    fields: dict[str, Any] = {"family": level, "seq_len": base.seq_len}
    if level == "shuffled":
        fields = {"family": "shuffled", "base": base.model_dump(mode="json")}
    elif level == "iid":
        if base.frames_of is None:
            raise ExperimentError(
                f"pre.spec: family {base.family!r} shows no frames, which 'iid' needs; use 'shuffled'"
            )
        grid = base.frames_of
        fields |= {"grid": list(grid.grid), "colors": grid.colors, "patch": grid.patch}
    return parse_spec(fields)


def read_spec(lake: Lake, source: str | Mapping[str, Any], folder: Path) -> GenerationSpec:
    """A spec given as a table, a TOML file (relative to ``folder``), a preset, or ``NAME``, ``NAME@V`` in the lake."""
    if not isinstance(source, str):
        return parse_spec(source)
    if source.endswith(".toml"):
        return parse_spec(read_toml(folder / source))
    if source in list_presets():
        return load_preset(source)
    return parse_spec(lake.params.usable(source).spec)


def prepare_corpus(lake: Lake, corpus: Corpus, folder: Path) -> tuple[DatasetVersion, DatasetVersion]:
    """The target's train and held-out datasets, added from its paths if it has any."""
    if not corpus.paths:
        return _existing(lake, corpus.name, corpus.heldout)
    paths = [
        found for path in corpus.paths for found in (stdlib_files() if path == STDLIB else [(folder / path).resolve()])
    ]
    patterns = ("*.py",) if corpus.paths == (STDLIB,) else corpus.patterns
    with corpus_stages(corpus.name) as progress:
        added = add_corpus(
            lake,
            corpus.name,
            paths,
            patterns=patterns,
            tokenizer=corpus.tokenizer,
            seq_len=corpus.seq_len,
            heldout_fraction=corpus.heldout_fraction,
            message="for an experiment",
            progress=progress,
        )
    return added.both()


def prepare_task(lake: Lake, file: ExperimentFile) -> tuple[DatasetVersion, DatasetVersion]:
    """The target's datasets where it is a task, by default one epoch of it."""
    corpus = file.corpus
    assert corpus.task is not None, "the caller asked"
    spec = task_spec(corpus.task, file.folder)
    with corpus_stages(corpus.name) as progress:
        return add_task(
            lake,
            corpus.name,
            spec,
            corpus.sequences or file.train["steps"] * file.train["batch_sequences"],
            heldout_sequences=corpus.heldout_sequences,
            message="for an experiment",
            progress=progress,
        )


def prepare_synthetic(
    lake: Lake,
    spec: GenerationSpec,
    seed: int,
    tokens: int,
    gate_sequences: int,
    title: str,
    stop: Stop | None = None,
    *,
    ray: bool = True,
) -> tuple[DatasetVersion, DatasetVersion]:
    """A spec's dataset of ``tokens`` and another of ``gate_sequences`` at the next seed, generated if not there."""
    name = f"{spec.family}-{spec.digest[:NAME_DIGITS]}"
    params = lake.params.put(name, spec.model_dump(mode="json"), message="for an experiment")
    made = []
    for what, suffix, at, sequences in (
        ("", "", seed, math.ceil(tokens / spec.seq_len)),
        (" gate", "-gate", seed + 1, gate_sequences),
    ):
        dataset = f"{name}-s{seed}{suffix}"
        found = find_synthetic(lake, dataset, spec.digest, at, sequences)
        if found is None:
            wanted = sequences * spec.seq_len
            request = GenerateRequest(
                params,
                wanted,
                dataset=dataset,
                seed=at,
                shard_sequences=SHARD_SEQUENCES,
                message="for an experiment",
            )
            advance: Callable[[float, str], None]
            with stage(f"generate {title}{what}", wanted) as advance:
                make = run_generation if ray else generate_here
                found = make(lake, request, advance, stop=stop).dataset
        made.append(found)
    return made[0], made[1]


def _existing(lake: Lake, name: str, heldout: str | None) -> tuple[DatasetVersion, DatasetVersion]:
    return lake.datasets.usable(name), lake.datasets.usable(heldout or f"{name.partition('@')[0]}-heldout")


def _stage_tokens(file: ExperimentFile, seq_len: int) -> int:
    """Tokens for one epoch of the pre-pre-training, or of what is mixed into the language run."""
    stage_rows = file.pre.train.get("steps", 0) * file.pre.train.get("batch_sequences", 0)
    mixed_rows = math.ceil(file.train["steps"] * file.train["batch_sequences"] * file.mixing.share)
    return max(stage_rows, mixed_rows if any(mixed(cell) for cell in file.cells) else 0) * seq_len
