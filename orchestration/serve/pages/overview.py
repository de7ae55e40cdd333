"""What the first page shows: the lake as it is now, newest things first. Gathered once for all who look at once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from datalake import DatasetVersion, Lake, ModelVersion
from datalake.errors import DatalakeError
from orchestration.serve.api.runs import run_state
from orchestration.serve.api.schemas import RunOut
from orchestration.serve.pages.data import read_sequences
from orchestration.serve.pages.draw_frames import Picture
from orchestration.serve.settings import without_place

LOOKED_AT = 500  # names of a kind, at most
SHOWN = 6
TRAJECTORIES, FRAMES = 3, 8
MAX_SHARD = 64 << 20  # bytes: a larger one is not read for a picture
KEPT_S = 3.0
_THREADS = 8
_KEPT_STRIPS = 64

_T = TypeVar("_T")


@dataclass(frozen=True)
class Strip:
    """A dataset, and some frames of its first sequence (none where it has none, or they are too large to fetch)."""

    version: DatasetVersion
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Score:
    """A model's loss on a held-out dataset, and that of the model that it is best compared with, if there is one."""

    dataset: str
    loss: float
    other: str | None = None
    other_loss: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Scored:
    """A model with its scores."""

    version: ModelVersion
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Overview:
    """All that the page shows. ``counts`` is of every name; ``notes`` says what could not be read or was left out."""

    counts: dict[str, int]
    running: list[RunOut] = field(default_factory=list)
    troubled: list[RunOut] = field(default_factory=list)
    datasets: list[Strip] = field(default_factory=list)
    models: list[Scored] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Overviews:
    """The overview of one lake, kept for KEPT_S seconds; safe across threads, which wait for one gathering."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = threading.Lock()
        self._made: Overview | None = None
        self._at = -float("inf")
        self._strips: OrderedDict[str, tuple[Picture, ...]] = OrderedDict()

    def get(self) -> Overview:
        """The newest, or one made moments ago."""
        with self._lock:
            if self._made is None or time.monotonic() - self._at > KEPT_S:
                self._made = self._gather()
                self._at = time.monotonic()
            return self._made

    def _gather(self) -> Overview:
        lake, notes = self._lake, []
        found: dict[str, list[Any]] = {}
        counts = {}
        kinds: dict[str, tuple[Iterable[str], Callable[[str], Any]]] = {
            "params": (lake.params.names(), lake.params.get),
            "datasets": (lake.datasets.names(), lake.datasets.get),
            "models": (lake.models.names(), lake.models.get),
            "runs": (lake.runs.list(), lambda name: run_state(lake, name, shown=0)),
        }
        with ThreadPoolExecutor(_THREADS) as pool:
            for kind, (names, load) in kinds.items():
                every = list(names)
                counts[kind] = len(every)
                if len(every) > LOOKED_AT:
                    notes.append(f"of {len(every):,} {kind} the first {LOOKED_AT} by name were looked at")
                loaded = list(pool.map(_or_error(load), islice(every, LOOKED_AT)))
                found[kind] = [one for one, _ in loaded if one is not None]
                notes += [error for _, error in loaded if error]
        runs: list[RunOut] = sorted(found["runs"], key=lambda run: run.seen or "", reverse=True)
        newest = {kind: _newest(found[kind]) for kind in ("params", "datasets", "models")}
        return Overview(
            counts,
            running=[run for run in runs if run.state == "running"],
            troubled=[run for run in runs if run.state in ("failed", "lost")][:SHOWN],
            datasets=self._strips_of(newest["datasets"][:SHOWN]),
            models=[
                Scored(version, scores_of(version, newest["models"], runs)) for version in newest["models"][:SHOWN]
            ],
            params=newest["params"][:SHOWN],
            notes=[without_place(lake, note) for note in notes],
        )

    def _strips_of(self, versions: list[DatasetVersion]) -> list[Strip]:
        """Every version, the first TRAJECTORIES that have pictures with them."""
        strips: list[Strip] = []
        for version in versions:
            enough = sum(bool(strip.pictures) for strip in strips) >= TRAJECTORIES
            strips.append(Strip(version, ()) if enough else self._strip(version))
        return strips

    def _strip(self, version: DatasetVersion) -> Strip:
        if version.kind != "synthetic":
            return Strip(version, ())
        if version.digest not in self._strips:
            try:
                self._strips[version.digest] = _frames(self._lake, version)
            except DatalakeError:  # the dataset's own page says what is wrong with it
                return Strip(version, ())
            while len(self._strips) > _KEPT_STRIPS:
                self._strips.popitem(last=False)
        return Strip(version, self._strips[version.digest])


def scores_of(version: ModelVersion, models: list[ModelVersion], runs: list[RunOut]) -> tuple[Score, ...]:
    """The model's losses, each beside the best other model's on the same data: of the same pipeline or experiment if
    there is one, else of the model's own name, else of any."""
    parent = {run.name: run.parent for run in runs}
    scores = []
    for dataset, loss in losses(version).items():
        best: tuple[int, float, ModelVersion, str] | None = None
        for other in models:
            if other.ref == version.ref or dataset not in losses(other):
                continue
            if parent.get(version.run) and parent.get(version.run) == parent.get(other.run):
                rank, why = 0, f"of the same {parent[version.run]}"
            elif other.name == version.name:
                rank, why = 1, "of the same name"
            else:
                rank, why = 2, "best other on the same data"
            found = (rank, losses(other)[dataset], other, why)
            if best is None or found[:2] < best[:2]:
                best = found
        if best is None:
            scores.append(Score(dataset, loss))
        else:
            scores.append(Score(dataset, loss, best[2].ref, best[1], best[3]))
    return tuple(scores)


def losses(version: ModelVersion) -> dict[str, float]:
    """Held-out loss by dataset, from a model's metrics."""
    metrics = version.metrics.get("evals", version.metrics)
    return {
        dataset: float(scores["loss"])
        for dataset, scores in metrics.items()
        if isinstance(scores, dict) and isinstance(scores.get("loss"), int | float)
    }


def _frames(lake: Lake, version: DatasetVersion) -> tuple[Picture, ...]:
    manifest = lake.datasets.manifest(version)
    if manifest.is_computed or manifest.shards[0].bytes > MAX_SHARD:
        return ()
    pictures = read_sequences(lake, manifest, 0, 1)[0].drawing.pictures
    return pictures[:: max(1, -(-len(pictures) // FRAMES))]


def _newest(versions: list[Any]) -> list[Any]:
    return sorted(
        (version for version in versions if not version.retired), key=lambda version: version.created, reverse=True
    )


def _or_error(load: Callable[[str], _T]) -> Callable[[str], tuple[_T | None, str | None]]:
    def attempt(name: str) -> tuple[_T | None, str | None]:
        try:
            return load(name), None
        except DatalakeError as error:  # one damaged name must not hide the others
            return None, str(error)

    return attempt
