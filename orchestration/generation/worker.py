"""The actor that makes a synthetic dataset's shards: simulate, score, write if absent, and tell how it went."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

import pyarrow as pa

from datalake import Lake, Manifest, ShardRef, Source, find_shard, repair_shard
from datalake.events import log_event
from datalake.shards.content import ContentPart, combine, part_of
from datalake.shards.source import shard_key
from generator import GENERATOR_VERSION, GenerationSpec, generate_batch, parse_spec
from orchestration.folders import prepare_folders
from orchestration.generation.weights import provide_weights
from orchestration.telemetry import start_telemetry


class Made(NamedTuple):
    """A shard, whether it had to be written, and the digests of its rows."""

    ref: ShardRef
    written: bool
    content: ContentPart


class ShardWorker:
    """Makes shards of one source; holds nothing between calls but compiled kernels."""

    def __init__(
        self, lake: Lake, source: Source, backend: str, threads: int, title: str = "", run: str | None = None
    ) -> None:
        prepare_folders()
        self._lake, self._source, self._backend, self._threads = lake, source, backend, threads
        self._title = title
        if run is not None:
            start_telemetry(run, actor=title)
        provide_weights(lake, source.spec)
        self._spec = parse_spec(source.spec)

    def __repr__(self) -> str:
        return f"generate {self._title}"  # Ray's dashboard shows it

    def make(self, first: int, rows: int) -> Made:
        """Return the shard of sequences `first` … `first + rows - 1`, written or found."""
        found = find_shard(self._lake.store, self._source, first, rows)
        if found is not None:
            ref, table = found
            return Made(ref, False, part_of(table, first))
        seed = self._source.seed
        assert seed is not None, "a synthetic source has a seed"
        began = time.monotonic()
        table = generate_batch(self._spec, seed, first, rows, backend=self._backend, threads=self._threads)
        _log_made(self._source, table, first, time.monotonic() - began)
        # A damaged object may hold the key; what belongs there is certain, so it is put right, the damage kept aside.
        ref = repair_shard(self._lake.store, self._source, table, first, self._lake.system)
        return Made(ref, True, part_of(table, first))


def _log_made(source: Source, table: pa.Table, first: int, seconds: float) -> None:
    import pyarrow.compute as pc  # a tenth of a second that commands which make no shard should not pay

    candidates = table.num_rows + int(pc.sum(table.column("attempt")).as_py())
    log_event(
        "shard_made",
        logger="morphogen.generator",
        shard=shard_key(source, first, table.num_rows),
        rows=table.num_rows,
        tokens=table.num_rows * source.spec["seq_len"],
        candidates=candidates,
        acceptance=table.num_rows / candidates,
        seconds=seconds,
    )


def stored(planned: Manifest, made: Collection[Made]) -> Manifest:
    """Return the manifest of ``planned``, now that its shards (any order) are ``made``: nothing is read back.

    Raises ManifestError if they leave gaps.
    """
    return planned.stored([each.ref for each in made], combine(each.content for each in made))


def plan_dataset(spec: GenerationSpec, seed: int, sequences: int, shard_sequences: int) -> Manifest:
    """Say what a synthetic dataset will be, before any of it is made: the manifest of the computed dataset."""
    source = synthetic_source(spec, seed, shard_sequences)
    return Manifest.computed(source, sequences=sequences, seq_len=spec.seq_len, vocab_size=spec.vocab_size)


def synthetic_source(spec: GenerationSpec, seed: int, shard_sequences: int) -> Source:
    """The identity of a synthetic shard stream; parameter names are no part of it, so equal specs share shards."""
    return Source(
        kind="synthetic",
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        seed=seed,
        generator=GENERATOR_VERSION,
        shard_sequences=shard_sequences,
        format=2,
    )
