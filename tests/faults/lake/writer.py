"""A generation's writer as a process: makes every shard that is not there yet, in an order of its own, then commits.

``python -m tests.faults.lake.writer URI SHARDS SEED GATE``: the file GATE holds how many shards it may have made so
far, so that a test can spread its kills over the whole generation however long a process takes to start.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from datalake.lake import Lake
from datalake.shards.manifest import Manifest, content_digest
from datalake.shards.shards import find_shard, repair_shard
from datalake.shards.source import shard_layout
from tests.datalake.helpers import SEQ_LEN, VOCAB, make_source, make_table

ROWS = 64
PAUSE_S = 0.02  # what computing a shard would take, and between looks at the gate


def generate(uri: str, shards: int, seed: int, before: Callable[[int], None] = lambda _made: None) -> str:
    """Returns the digest of the manifest that was committed; ``before`` is told the shards made before each one."""
    lake = Lake.open(uri)
    source = make_source(shard_sequences=ROWS)
    layout = shard_layout(shards * ROWS - 7, ROWS)
    refs = []
    for first, rows in random.Random(seed).sample(layout, len(layout)):
        before(len(refs))
        found = find_shard(lake.store, source, first, rows)
        if found is not None:
            refs.append(found[0])
        else:
            refs.append(repair_shard(lake.store, source, make_table(7, first, rows), first, lake.system))
    digest = content_digest(lake.store, refs)
    manifest = Manifest.build(source, refs, seq_len=SEQ_LEN, vocab_size=VOCAB, content_digest=digest)
    return lake.datasets.commit("d", manifest).digest


def wait_at(gate: Path, made: int) -> None:
    """Wait until the gate lets a writer that has made ``made`` shards go on."""
    time.sleep(PAUSE_S)
    while made >= int(gate.read_text() or 0):
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    uri, shards, seed, gate = sys.argv[1:]
    generate(uri, int(shards), int(seed), lambda made: wait_at(Path(gate), made))
