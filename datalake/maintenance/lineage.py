"""Lineage: from a model back to the rules and parameters that made its data, through every model before it."""

from __future__ import annotations

from typing import Any

from datalake.errors import NotFoundError
from datalake.lake import Lake


def lineage(lake: Lake, ref: str) -> dict[str, Any]:
    """The tree behind a model version, as JSON: what ``NAME@V`` (or alias, or latest) was made from.

    Keys: ``model`` (ref, name, version, digest, created, files, retired), ``run`` (name, kind, status, config_digest,
    inputs, attempts, retired; ``missing`` if its log is gone), ``datasets`` (ref, digest, content_digest (None of
    computed ones), identity, computed, kind,
    sequences, tokens, seed, generator, spec_digest, params, retired), ``spec_digests``, ``params`` (ref, digest,
    retired) and ``parents`` (the same tree for each model that weights came from). Raises NotFoundError if the model
    itself, or a dataset, parameter version or parent that it names, does not exist.
    """
    model = lake.models.get(ref)
    run = _run(lake, model.run)
    inputs = run.get("inputs", {})
    datasets = [dataset_lineage(lake, name) for name in _merged(model.datasets, inputs.get("datasets", ()))]
    named = _merged(model.params, (d["params"]["ref"] for d in datasets if d["params"]), inputs.get("params", ()))
    return {
        "model": {
            "ref": model.ref,
            "name": model.name,
            "version": model.version,
            "digest": model.digest,
            "created": model.created,
            "retired": model.retired,
            "files": {name: facts["sha256"] for name, facts in model.files.items()},
        },
        "run": run,
        "datasets": datasets,
        "spec_digests": _merged(model.spec_digests, (dataset["spec_digest"] for dataset in datasets)),
        "params": [_params(lake, name) for name in named],
        "parents": [lineage(lake, parent) for parent in _merged(model.parents, inputs.get("models", ()))],
    }


def _run(lake: Lake, name: str) -> dict[str, Any]:
    try:
        state = lake.runs.get(name).state
    except NotFoundError:
        return {"name": name, "missing": True}
    return {
        "name": name,
        **{field: state[field] for field in ("kind", "status", "config_digest", "inputs", "attempts")},
        "retired": bool(state.get("retired")),
    }


def dataset_lineage(lake: Lake, ref: str) -> dict[str, Any]:
    """What dataset version ``ref`` was made from, as one of the ``datasets`` of ``lineage``. Raises NotFoundError."""
    version = lake.datasets.get(ref)
    manifest = lake.datasets.manifest(version)
    return {
        "ref": version.ref,
        "digest": version.digest,
        "content_digest": manifest.content_digest,
        "identity": manifest.identity,
        "computed": manifest.is_computed,
        "kind": manifest.kind,
        "sequences": manifest.sequences,
        "tokens": manifest.tokens,
        "seed": manifest.source.seed,
        "generator": manifest.source.generator,
        "spec_digest": manifest.source.spec_digest,
        "params": _params(lake, version.params) if version.params else None,
        "retired": version.retired,
    }


def _params(lake: Lake, ref: str) -> dict[str, Any]:
    version = lake.params.get(ref)
    return {"ref": version.ref, "digest": version.digest, "retired": version.retired}


def _merged(*lists: Any) -> list[str]:
    """All items once, in order of first appearance."""
    return list(dict.fromkeys(item for items in lists for item in items))
