"""Retiring versions and runs: a mark in their log, which stays in the lineage of what was made from them.

Nothing is deleted here. New work on what is retired is refused, and `data gc` removes, once a grace period is over,
what then nothing names any more: a dataset's shards, a model's files, a run's checkpoints. Until then the mark can be
taken off again.

Who retires and who begins to depend look at each other: a run is recorded with what it reads before its workers look
whether that is retired, and whoever retires looks for dependents once more after the mark is there, and takes it off
again if it finds one. The store is linearizable, so at least one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from datalake.errors import InUseError, InvalidNameError
from datalake.lake import Lake
from datalake.log.version_log import ChangeRequest
from datalake.log.versioned import Outcome, VersionedRepository
from datalake.names import parse_ref
from datalake.runs.run import Run

Kind = Literal["params", "datasets", "models"]
_SHOWN = 5


def repository_of(lake: Lake, kind: Kind) -> VersionedRepository[Any]:
    """The lake's repository of a kind."""
    repositories: dict[Kind, VersionedRepository[Any]] = {
        "params": lake.params,
        "datasets": lake.datasets,
        "models": lake.models,
    }
    return repositories[kind]


def retire_version(
    lake: Lake,
    kind: Kind,
    ref: str,
    message: str = "",
    *,
    force: str | None = None,
    request: ChangeRequest | None = None,
    check: Callable[[int], None] = lambda _now: None,
) -> Outcome[Any]:
    """Retire the version ``NAME@V``. Twice changes nothing.

    ``force``, which must say ``NAME@V`` again, does so although something depends on it, and takes away aliases that
    point at it. ``check`` is given the version (0: it is retired already), and may raise. Raises NotFoundError,
    InvalidNameError for a reference without a version's number, and InUseError.
    """
    repository = repository_of(lake, kind)
    name, version = _parse(ref, repository.versioned.noun)
    found = repository.get(ref)
    _check_force(found.ref, force)

    def refuse() -> None:
        _refuse(f"{repository.versioned.noun} {found.ref}", dependents(lake, kind, found.ref), found.ref)

    if not found.retired and force is None:
        refuse()
    outcome = repository.retire_once(name, version, request, message=message, force=force is not None, check=check)
    if outcome.changed and not outcome.replayed and force is None:
        try:
            refuse()  # something may have begun to depend on it meanwhile: see the module's docstring
        except InUseError:
            repository.restore(name, version, "in use after all")
            raise
    return outcome


def restore_version(lake: Lake, kind: Kind, ref: str, message: str = "") -> Any:
    """Take the mark off ``NAME@V`` again. Raises NotFoundError, InvalidNameError, RetiredError where it is too late."""
    repository = repository_of(lake, kind)
    return repository.restore(*_parse(ref, repository.versioned.noun), message)


def retire_run(
    lake: Lake,
    name: str,
    message: str = "",
    *,
    over: str,
    force: str | None = None,
    request: ChangeRequest | None = None,
) -> tuple[Run, bool, bool]:
    """Retire a run that nobody works on (``over``: the lease that it was seen to have). Twice changes nothing.

    Returns the run, whether it changed, and whether the ``request`` had been done before. ``force``, which must say the
    run's name again, does so although something depends on it. Raises NotFoundError, InvalidNameError, InUseError, and
    RunHeldError if another process has taken it meanwhile.
    """
    found = lake.runs.get(name)
    _check_force(name, force)
    if not found.retired and force is None:
        _refuse(f"run {name}", dependents_of_run(lake, found), name)
    run, entry = lake.runs.retire(name, message, over=over, request=request)
    if entry.changed and not entry.replayed and force is None:
        try:
            _refuse(f"run {name}", dependents_of_run(lake, run), name)
        except InUseError:
            lake.runs.restore(name, "in use after all")
            raise
    return run, entry.changed, entry.replayed


def dependents(lake: Lake, kind: Kind, ref: str) -> Iterator[str]:
    """What needs version ``ref`` (``NAME@V``), in words: versions made from it, and runs that read it and have not
    finished. What is retired needs nothing."""
    if kind == "params":
        for name in lake.datasets.names():
            for dataset in lake.datasets.history(name):
                if dataset.params == ref and not dataset.retired:
                    yield f"dataset {dataset.ref}"
    for name in lake.models.names():
        for model in lake.models.history(name):
            behind = {"params": model.params, "datasets": model.datasets, "models": model.parents}[kind]
            if ref in behind and not model.retired:
                yield f"model {model.ref}"
    for run in _runs(lake):
        if run.status != "finished" and ref in _read_by(run)[kind]:
            yield f"run {run.name}"


def dependents_of_run(lake: Lake, run: Run) -> Iterator[str]:
    """What needs a run: the models that it published, and runs that name it as a part of theirs."""
    for name in lake.models.names():
        for model in lake.models.history(name):
            if model.run == run.name and not model.retired:
                yield f"model {model.ref}"
    parent = run.state.get("parent")
    for other in _runs(lake):
        a_part = other.name == parent and other.status != "finished"
        if other.name != run.name and (a_part or run.name in _read_by(other)["runs"]):
            yield f"run {other.name}"


def _runs(lake: Lake) -> Iterator[Run]:
    return (run for name in lake.runs.names() if not (run := lake.runs.get(name)).retired)


def _read_by(run: Run) -> dict[str, set[str]]:
    """What a run reads, by kind: its inputs, and what its job has added to them in the field ``reads``."""
    inputs, later = run.state["inputs"], run.state.get("reads", {})
    read = {kind: {*inputs.get(kind, ()), *later.get(kind, ())} for kind in ("params", "datasets", "models", "runs")}
    read["datasets"] |= set(inputs.get("eval", ()))
    return read


def _parse(ref: str, noun: str) -> tuple[str, int]:
    name, selector = parse_ref(ref, noun)
    if not isinstance(selector, int):
        raise InvalidNameError(f"{noun} {ref!r}: only one version is retired at a time; name it by number: {name}@1")
    return name, selector


def _check_force(ref: str, force: str | None) -> None:
    if force is not None and force != ref:
        raise InvalidNameError(f"force = {force!r}: is not what is to be retired; repeat {ref}, or leave it out")


def _refuse(what: str, needed_by: Iterator[str], name: str) -> None:
    """InUseError if something needs ``what``."""
    found = list(dict.fromkeys(needed_by))
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InUseError(
            f"{what} is needed by {', '.join(found[:_SHOWN])}{more}: retire these first, or force it by name "
            f"(--force {name})"
        )
