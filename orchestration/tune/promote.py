"""Promotion by compare-and-set: a new version of the parameter set and its alias, or a conflict and nothing.

Two tuners of one set race at the version: it is appended only onto the head that the tuning began with. One that was
killed between version and alias finds its own version at the head and goes on to the alias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datalake import Lake, ParameterVersion, digest_of
from orchestration.experiment.result import ResultModel


class Target(ResultModel):
    """What a tuning may move: the set's ``head`` and the alias's version (0: absent) as they were at its beginning.

    ``incumbent`` ("NAME@V") is what it has to beat.
    """

    params: str
    head: int
    alias: str
    alias_at: int
    incumbent: str


def alias_of(corpus: str) -> str:
    """``tuned-CORPUS``: an alias is one segment of a key, so it cannot hold a slash."""
    return f"tuned-{corpus.partition('@')[0]}"


def promote(lake: Lake, target: Target, spec: Mapping[str, Any], message: str) -> ParameterVersion:
    """Append ``spec`` and point the alias at it. Raises Conflict, with nothing moved, if another was there first."""
    version = _mine(lake, target, spec, message) or lake.params.put(
        target.params, spec, message=message, expect_version=target.head, force=True
    )
    if lake.params.aliases(target.params).get(target.alias) == version.version:
        return version
    return lake.params.tag(target.params, target.alias, version.version, expect=target.alias_at)


def _mine(lake: Lake, target: Target, spec: Mapping[str, Any], message: str) -> ParameterVersion | None:
    """The version that this very tuning has appended before it was killed, recognised by spec and message."""
    digest = digest_of(dict(spec))
    following = (version for version in lake.params.history(target.params)[target.head :] if not version.retired)
    first = next(following, None)
    return first if first is not None and (first.digest, first.message) == (digest, message) else None
