"""Verification: read every byte that a manifest names and say which shards are not what it says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from datalake.errors import CorruptShardError, MissingShardError
from datalake.manifest import Manifest, Progress, content_digest
from datalake.shards import ShardRef, fetch_shard
from datalake.store import Store


@dataclass(frozen=True)
class ShardProblem:
    """A shard that does not verify, and what is wrong with it in one line."""

    key: str
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """``checked`` shards were read; ``problems`` lists the bad ones in sequence order; ``ok`` if there are none."""

    checked: int
    problems: tuple[ShardProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as the manifest says."""
        return not self.problems


def verify_dataset(
    store: Store, manifest: Manifest, progress: Progress | None = None, threads: int = 8
) -> VerifyReport:
    """Check size and SHA-256 of every shard, and, if those hold, the digest over all tokens.

    A damaged shard is reported, not raised; errors of the store itself are raised.
    """
    problems: list[ShardProblem] = []
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda ref: _problem(store, ref), manifest.shards)
        for done, problem in enumerate(results, start=1):
            if problem is not None:
                problems.append(problem)
            if progress is not None:
                progress(done, len(manifest.shards))
    if not problems and (found := content_digest(store, manifest.shards)) != manifest.content_digest:
        problems.append(
            ShardProblem(manifest.key, f"content digest is {found}, the manifest says {manifest.content_digest}")
        )
    return VerifyReport(len(manifest.shards), tuple(problems))


def _problem(store: Store, ref: ShardRef) -> ShardProblem | None:
    try:
        fetch_shard(store, ref)
    except MissingShardError:
        return ShardProblem(ref.key, f"missing: sequences {ref.first} to {ref.first + ref.rows - 1}")
    except CorruptShardError as error:
        return ShardProblem(ref.key, f"corrupt: expected SHA-256 {error.expected}, found {error.found}")
    return None
