"""A generation's run in the lake, and the commit of what it made, whoever makes the shards: without Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from datalake import Lake, Manifest, digest_of
from datalake.errors import RetiredError, RunHeldError
from datalake.registry.datasets import DatasetVersion
from orchestration.generation.request import GenerateRequest
from orchestration.generation.worker import Made, stored
from orchestration.runs.lease import RunLease, acquire
from orchestration.runs.signals import Stop


@dataclass(frozen=True)
class GenerateResult:
    """The committed version, its manifest, how many shards were made now rather than found, and the run's name."""

    dataset: DatasetVersion
    manifest: Manifest
    shards_written: int
    shards_reused: int
    run: str

    def to_record(self) -> dict[str, Any]:
        """JSON-able, as the command prints it and the run's record keeps it."""
        return {
            "run": self.run,
            "dataset": self.dataset.ref,
            "digest": self.manifest.digest,
            "content_digest": self.manifest.content_digest,
            "sequences": self.manifest.sequences,
            "tokens": self.manifest.tokens,
            "shards": len(self.manifest.shards),
            "shards_written": self.shards_written,
            "shards_reused": self.shards_reused,
        }


@contextmanager
def acquire_run(
    lake: Lake,
    request: GenerateRequest,
    resources: Mapping[str, Any],
    run: str | None,
    stop: Stop | None,
    parent: str | None,
    *,
    ray: bool = True,
) -> Iterator[RunLease]:
    """The request's run; without a name, the first of its runs (-2, -3, …) that is neither worked on nor retired."""
    config = request.to_config()
    default = f"generate-{request.dataset_name[:100]}-{digest_of(config)[:8]}"
    names = [run] if run else chain([default], (f"{default}-{number}" for number in count(2)))
    inputs = {"params": [request.params.ref], "spec_digest": request.params.digest}
    how = ("actors", "backend", "message", "cpus_per_actor", "gpus_per_actor")
    settings = {field: getattr(request, field) for field in how} | ({} if ray else {"ray": False})
    with ExitStack() as stack:
        for name in names:
            try:
                run_lease = stack.enter_context(
                    acquire(
                        *(lake, name, "generate", config, inputs),
                        stop=stop,
                        settings=settings,
                        resources=resources,
                        parent=parent,
                        wait=run is not None,
                    )
                )
                break
            except (RunHeldError, RetiredError):
                if run is not None:
                    raise
        yield run_lease


def commit_shards(
    lake: Lake,
    request: GenerateRequest,
    planned: Manifest,
    made: Collection[Made],
    run_lease: RunLease,
) -> GenerateResult:
    """Commit the dataset version whose shards are ``made``, and finish the run."""
    manifest = stored(planned, made)
    dataset = lake.datasets.commit(request.dataset_name, manifest, params=request.params.ref, message=request.message)
    if dataset.digest != manifest.digest:  # committed by a release that made its digest of the tokens otherwise
        manifest = lake.datasets.manifest(dataset)
    written = sum(each.written for each in made)
    result = GenerateResult(dataset, manifest, written, len(made) - written, run_lease.run.name)
    if not run_lease.finished:
        run_lease.run.finish(result.to_record())
    return result
