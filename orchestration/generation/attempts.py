"""The attempt index of a computed dataset, made on this machine's cores: part after part, each a pure function.

Parts that are there are kept, so that one that was stopped goes on, and several machines may make one index at once:
each begins elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from datalake import Lake
from datalake.reading.attempts import attempts_layout, read_attempts, write_attempts
from datalake.reading.computed import check_generator
from generator import SpecGenerator, generate_batch, parse_spec
from orchestration.cluster.cores import local_cores
from orchestration.errors import InvalidRequestError
from orchestration.generation.local import each_result
from orchestration.generation.weights import provide_weights
from orchestration.runs.signals import Stop

Part = tuple[int, int]  # first sequence, sequences


def index_attempts(
    lake: Lake,
    reference: str,
    advance: Callable[[float, str], None] = lambda *_: None,
    *,
    stop: Stop | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Make the parts that are missing of the index of ``reference``; says what there is.

    ``advance`` is told the sequences done. Raises InvalidRequestError for a version that is stored, or whose spec has
    no band; GeneratorVersionError, BandError, RetiredError and NotFoundError; JobStopped once ``stop`` is set.
    """
    version = lake.datasets.usable(reference)
    manifest = lake.datasets.manifest(version)
    if not manifest.is_computed:
        raise InvalidRequestError(f"dataset {version.ref}: is stored, so nothing is looked for; index a computed one")
    check_generator(manifest, version.ref, SpecGenerator())
    source = manifest.source
    provide_weights(lake, source.spec)
    spec = parse_spec(source.spec)
    if spec.accept_band is None:
        raise InvalidRequestError(
            f"dataset {version.ref}: its spec has no band, so nothing is looked for; read it as it is"
        )
    assert source.seed is not None, "a synthetic source has a seed"
    seed = source.seed
    lake.check_writable()
    layout = attempts_layout(manifest)
    random.SystemRandom().shuffle(layout)
    cores = threads or local_cores()
    workers = min(cores, len(layout))
    written, done, size = 0, 0, 0

    def make(part: Part) -> tuple[np.ndarray, int]:
        """The part's attempts, and how many bytes had to be written."""
        first, rows = part
        found_N = read_attempts(lake.store, source, first, rows)
        if found_N is not None:
            return found_N, 0
        table = generate_batch(spec, seed, first, rows, threads=max(1, cores // workers))
        attempts_N = table.column("attempt").to_numpy()
        return attempts_N, write_attempts(lake.store, source, first, attempts_N)

    def poll() -> None:
        if stop is not None:
            stop.check(f": {written} more parts of the index are there; the same command goes on")

    attempts = 0
    for (_, rows), (attempts_N, bytes_written) in each_result(make, layout, workers, poll):
        done, attempts = done + rows, attempts + int(attempts_N.sum(dtype=np.int64)) + rows
        written, size = written + bool(bytes_written), size + bytes_written
        advance(done, f"{written} parts written")
    return {
        "dataset": version.ref,
        "sequences": manifest.sequences,
        "parts": len(layout),
        "parts_written": written,
        "bytes_written": size,
        "acceptance": manifest.sequences / attempts,
    }
