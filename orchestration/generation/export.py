"""Export of a dataset version: several files at once, in threads of this process or in tasks of a Ray cluster.

On Ray every task fetches or computes the rows of its file and writes it where it belongs; nothing passes through here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datalake import Lake
from datalake.maintenance.export import ExportReport, Item, Mapper, Result, export_dataset
from datalake.maintenance.export_formats import ExportFile, plan_files
from datalake.maintenance.export_targets import ExportTarget, FolderTarget, open_target
from datalake.maintenance.lineage import dataset_lineage
from datalake.reading.computed import check_generator
from datalake.reading.tables import layout_of
from orchestration.cluster.address import cluster_address
from orchestration.cluster.cores import local_cores
from orchestration.cluster.submitted import inside_ray_job
from orchestration.console.progress import Advance
from orchestration.errors import InvalidRequestError
from orchestration.folders import prepare_folders
from orchestration.generation.local import each_result
from orchestration.generation.recompute import lake_generator
from orchestration.reports.cards import README, check_license, dataset_card
from orchestration.runs.signals import Stop

LINEAGE = "lineage.json"


@dataclass(frozen=True)
class ExportRequest:
    """What is exported (a dataset ``reference``), in which ``format``, to which ``address`` (see ``open_target``).

    ``ray`` None: on the cluster that RAY_ADDRESS names, if there is one and the files go to a bucket. ``threads``:
    files written at once without Ray; None: as many as there are cores.
    """

    reference: str
    address: str
    format: str = "parquet"
    license: str = "unknown"
    file_tokens: int | None = None
    ray: bool | None = None
    threads: int | None = None


def run_export(
    lake: Lake, request: ExportRequest, begin: Callable[[int], Advance], stop: Stop | None = None
) -> ExportReport:
    """Export with lineage (`lineage.json`) and a card (`README.md`) beside the files.

    ``begin`` is told how many shards there are, once nothing speaks against the work, and gives who is told how many
    are done. Raises InvalidRequestError, JobStopped once ``stop`` is set, what ``export_dataset`` raises and, on Ray,
    what ``ray_session`` and ``ray_map`` raise.
    """
    check_license(request.license)
    target = _target(request.address)
    on_ray = (
        request.ray if request.ray is not None else bool(cluster_address()) and not isinstance(target, FolderTarget)
    )
    if on_ray and request.threads is not None:
        raise InvalidRequestError(f"threads = {request.threads}: on Ray every CPU has a task; leave it out")
    version = lake.datasets.usable(request.reference)
    manifest = lake.datasets.manifest(version)
    files = plan_files(manifest, request.format, request.file_tokens)
    # Files are what is worked on at once: each has its share of the cores for rows that are computed.
    cores = 1 if on_ray else local_cores()
    at_once = min(request.threads or cores, len(files))
    generator = lake_generator(lake.store.uri, max(1, cores // at_once))
    check_generator(manifest, version.ref, generator)
    beside = {
        LINEAGE: _json({"dataset": dataset_lineage(lake, version.ref), "export": _described(request, files)}),
        README: dataset_card(version, manifest, request.format, request.license, files[0].name),
    }
    shards = len(layout_of(manifest))
    with ExitStack() as stack:
        mapper: Mapper = _Threads(at_once, stop)
        if on_ray:
            from orchestration.cluster.session import ray_session

            stack.enter_context(ray_session())
            mapper = _RayTasks(stop)
        advance = begin(shards)
        return export_dataset(
            lake.store,
            manifest,
            target,
            request.format,
            lambda done, _all: advance(done, request.format),
            generator=generator,
            beside=beside,
            file_tokens=request.file_tokens,
            mapper=mapper,
        )


def _target(address: str) -> ExportTarget:
    target = open_target(address)
    if not isinstance(target, FolderTarget):
        return target
    if inside_ray_job() and not target.folder.is_absolute():
        raise InvalidRequestError(
            f"folder = {address!r}: a folder relative to a Ray job's working directory is deleted with the job; give "
            "s3://bucket/prefix or an absolute folder that all nodes share"
        )
    return FolderTarget(Path(os.path.abspath(target.folder)))


def _described(request: ExportRequest, files: Sequence[ExportFile]) -> dict[str, Any]:
    return {"format": request.format, "files": [file.name for file in files]}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _check(stop: Stop | None) -> None:
    if stop is not None:
        stop.check(": the files that are whole stay; the same command goes on")


@dataclass(frozen=True)
class _Threads:
    """A ``Mapper`` of so many threads."""

    threads: int
    stop: Stop | None

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
        for _, result in each_result(function, items, self.threads, lambda: _check(self.stop)):
            yield result


@dataclass(frozen=True)
class _RayTasks:
    """A ``Mapper`` of tasks of the Ray that is joined."""

    stop: Stop | None

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
        from orchestration.cluster.map import ray_map

        for result in ray_map(_InTask(function), items, title="export"):
            _check(self.stop)
            yield result


@dataclass(frozen=True)
class _InTask:
    """Calls ``function`` once this process has its folders."""

    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        prepare_folders()
        return self.function(item)
