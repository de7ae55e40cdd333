"""Small real inputs for the datalake's tests."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from datalake.canonical import digest_of
from datalake.lake import Lake
from datalake.registry.datasets import DatasetVersion
from datalake.shards.manifest import Manifest, content_digest
from datalake.shards.shards import write_shard
from datalake.shards.source import Source, shard_layout

SEQ_LEN = 16
VOCAB = 1000


def make_source(
    seed: int = 7, shard_sequences: int = 32, spec: dict | None = None, format: Literal[1, 2] = 1
) -> Source:
    """A synthetic source; its rows come from ``make_tokens``."""
    spec = spec or {"family": "nca", "grid": [12, 12], "temperature": 0.5}
    return Source(
        kind="synthetic",
        spec=spec,
        spec_digest=digest_of(spec),
        seed=seed,
        generator="1",
        shard_sequences=shard_sequences,
        format=format,
    )


def make_tokens(seed: int, first: int, rows: int) -> np.ndarray:
    """uint16 [rows, SEQ_LEN]; row i depends on (seed, first + i) only, as generated sequences do."""
    return np.stack(
        [np.random.default_rng([seed, first + i]).integers(0, VOCAB, SEQ_LEN, dtype=np.uint16) for i in range(rows)]
    )


def make_table(seed: int, first: int, rows: int) -> pa.Table:
    """A table as the generator returns it."""
    tokens = make_tokens(seed, first, rows)
    ids = np.arange(first, first + rows, dtype=np.int64)
    return pa.table(
        {
            "sequence_id": ids,
            "tokens": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(2 * SEQ_LEN), rows, [None, pa.py_buffer(tokens.astype("<u2").tobytes())]
            ),
            "attempt": (ids % 3).astype(np.int32),
            "score": ids / 1000.0,
        }
    )


def make_manifest(
    lake: Lake, sequences: int = 100, seed: int = 7, shard_sequences: int = 32, format: Literal[1, 2] = 1
) -> Manifest:
    """Write the shards of ``sequences`` rows and return their manifest, not committed."""
    source = make_source(seed, shard_sequences, format=format)
    shards = [
        write_shard(lake.store, source, make_table(seed, first, rows), first)
        for first, rows in shard_layout(sequences, shard_sequences)
    ]
    digest = content_digest(lake.store, shards)
    return Manifest.build(source, shards, seq_len=SEQ_LEN, vocab_size=VOCAB, content_digest=digest)


def make_dataset(
    lake: Lake, name: str, sequences: int = 100, seed: int = 7, params: str | None = None
) -> DatasetVersion:
    """A committed dataset."""
    return lake.datasets.commit(name, make_manifest(lake, sequences, seed), params)
