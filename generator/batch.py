"""From (spec, seed, first, count) to an Arrow table, on as many threads as asked.

Threads take short runs of sequence ids; each simulates, scores and redraws what fails its band until its run is full.
Simulation and scoring both release the GIL, so one thread scores while another simulates.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.util import find_spec

import numpy as np
import pyarrow as pa

from generator.accept import MIN_RATE, Acceptance, Candidates, probe, refuse_impossible, refuse_rare, search, tokens_of
from generator.errors import BackendError, RangeError
from generator.family import family_of
from generator.pipeline import search_beside
from generator.registry import GenerationSpec
from generator.spec import BaseSpec

BACKENDS = ("numba", "reference", "triton")
# Ids a thread takes at a time. The last few of a run are redrawn in ever smaller calls: short runs waste a fifth.
SHORTEST_RUN, LONGEST_RUN = 64, 4096
CHECK_CANDIDATES = 4096
# So many accepted among at most CHECK_CANDIDATES leave no doubt: the check stops there.
ENOUGH = 24


def choose_backend(backend: str) -> str:
    """The backend meant by `backend`: itself, or for `auto` the fastest that this machine can run.

    BackendError when it is unknown or cannot run here.
    """
    if backend == "auto":
        # Asking PyTorch costs seconds of import: ask only where there is an NVIDIA driver.
        if os.path.exists("/proc/driver/nvidia/version") and find_spec("torch") and find_spec("triton"):
            from generator.nca.triton_backend import available

            if available():
                return "triton"
        return "numba" if find_spec("numba") else "reference"
    if backend == "triton":
        from generator.nca.triton_backend import available

        if not available():
            raise BackendError(
                "backend: 'triton' found no CUDA device or no triton and torch packages; needed are all three; install "
                "the extra `gpu`, or use backend numba"
            )
    if backend not in BACKENDS:
        raise BackendError(f"backend: {backend!r} is unknown; allowed are auto, {', '.join(BACKENDS)}; choose one")
    return backend


def thread_count(threads: int | None) -> int:
    """`threads`, or for None the cores this process may use, at most NUMBA_NUM_THREADS where that is set."""
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(cores, int(os.environ.get("NUMBA_NUM_THREADS", cores))))
    if threads < 1:
        raise RangeError(f"threads: {threads} is out of range; allowed is 1 or more; give None for all cores")
    return threads


def generate_batch(
    spec: GenerationSpec, seed: int, first: int, count: int, *, backend: str = "auto", threads: int | None = None
) -> pa.Table:
    """Sequences first .. first + count as a table, equal whatever the batch, backend or thread count.

    Columns, none null: sequence_id int64; tokens fixed_size_binary of seq_len little-endian `spec.token_dtype`; attempt
    int32 (redraws before the accepted one); score, score_normalized float64. Raises RangeError on a bad seed or range,
    BackendError on a bad backend, BandError when the band is hardly met.
    """
    if not 0 <= seed < 1 << 63:
        raise RangeError(f"seed: {seed} is out of range; allowed is 0 to 2**63 - 1; choose another")
    if first < 0 or count < 0 or first + count > 1 << 63:
        raise RangeError(f"range: first {first}, count {count}; allowed are ids 0 to 2**63 - 1; change the range")
    name, workers = choose_backend(backend), thread_count(threads)
    if count == 0:
        return _table(spec, first, [])
    if spec.accept_band is not None:
        check_acceptance(spec, name)

    def run(start: int) -> Candidates:
        ids = np.arange(max(start, first), min(start + length, first + count), dtype=np.int64)
        return search(spec, partial(family_of(spec).simulate, spec, seed, backend=name), ids)

    if name == "triton" and spec.rule_group == 1:
        simulate = partial(family_of(spec).simulate, spec, seed, backend=name)
        ids = np.arange(first, first + count, dtype=np.int64)
        return _table(spec, first, [search_beside(spec, simulate, ids, workers)])
    wanted = LONGEST_RUN if workers == 1 else min(LONGEST_RUN, max(SHORTEST_RUN, count // (4 * workers)))
    length = -(-wanted // spec.rule_group) * spec.rule_group
    # Runs begin at whole groups of sequences with one rule: two runs that share a group would both do its work.
    starts = range(first - first % spec.rule_group, first + count, length)
    if workers == 1 or len(starts) < 2:
        parts = [run(start) for start in starts]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(run, starts))
    return _table(spec, first, parts)


def generate_rows(
    spec: GenerationSpec,
    seed: int,
    ids_N: np.ndarray,
    attempts_N: np.ndarray | None = None,
    *,
    backend: str = "auto",
) -> np.ndarray:
    """Tokens of sequences ``ids_N`` (int64 [N], any order, repeats allowed), [N, seq_len], on one thread.

    They are those of `generate_batch`, as `spec.token_dtype`. ``attempts_N`` (int64 [N]) are that table's column
    ``attempt`` at these sequences, where they are known: nothing is scored then, nor is it without a band, which the
    first attempt meets. Raises RangeError on a bad seed or id, BackendError on a bad backend, BandError when the band
    is hardly met.
    """
    if not 0 <= seed < 1 << 63:
        raise RangeError(f"seed: {seed} is out of range; allowed is 0 to 2**63 - 1; choose another")
    ids_N = np.asarray(ids_N)
    if ids_N.ndim != 1 or not np.issubdtype(ids_N.dtype, np.integer):
        raise RangeError(f"ids: {ids_N.dtype} {list(ids_N.shape)}; allowed is one row of integers; give int64 [N]")
    if not len(ids_N):
        return np.empty((0, spec.seq_len), dtype=spec.token_dtype)
    if ids_N.min() < 0:
        raise RangeError(f"ids: {int(ids_N.min())} is negative; allowed are 0 to 2**63 - 1; change the ids")
    name = choose_backend(backend)
    simulate = partial(family_of(spec).simulate, spec, seed, backend=name)
    unique, places, inverse = np.unique(ids_N.astype(np.int64), return_index=True, return_inverse=True)
    if attempts_N is None and spec.accept_band is not None:
        check_acceptance(spec, name)
        return search(spec, simulate, unique).tokens[inverse]
    known = np.zeros(len(unique), np.int64) if attempts_N is None else np.asarray(attempts_N, np.int64)[places]
    return tokens_of(spec, simulate, unique, known)[inverse]


def _table(spec: BaseSpec, first: int, parts: list[Candidates]) -> pa.Table:
    schema = pa.schema(
        [
            pa.field("sequence_id", pa.int64(), nullable=False),
            pa.field("tokens", pa.binary(spec.token_dtype.itemsize * spec.seq_len), nullable=False),
            pa.field("attempt", pa.int32(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("score_normalized", pa.float64(), nullable=False),
        ]
    )
    if not parts:
        return schema.empty_table()
    tokens = np.ascontiguousarray(np.concatenate([p.tokens for p in parts]), dtype=spec.token_dtype)
    attempts = np.concatenate([p.attempts for p in parts]).astype(np.int32)
    width = schema.field("tokens").type
    binary = pa.FixedSizeBinaryArray.from_buffers(width, len(tokens), [None, pa.py_buffer(tokens)])
    columns = [
        _column(first + np.arange(len(tokens), dtype=np.int64)),
        binary,
        _column(attempts),
        _column(np.concatenate([p.ratio for p in parts])),
        _column(np.concatenate([p.normalized for p in parts])),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(numbers: np.ndarray) -> pa.Array:
    """The array as a column without nulls; ``pa.array`` would first import pandas, if that is installed."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)])


def measure_acceptance(spec: GenerationSpec, seed: int = 0, candidates: int = 4096) -> Acceptance:
    """Try `candidates` first attempts (with several sequences per rule: candidates / that many rules) and count."""
    name = choose_backend("auto")
    return probe(spec, partial(family_of(spec).simulate, spec, seed, backend=name), candidates)


@lru_cache(maxsize=64)
def check_acceptance(spec: GenerationSpec, backend: str = "auto", least: float = MIN_RATE) -> None:
    """BandError, with the measured acceptance, when less than this share of the candidates meets the band.

    With several sequences per rule it is a share of the rules.
    """
    if spec.accept_band is not None:
        refuse_impossible(spec)
        simulate = partial(family_of(spec).simulate, spec, 0, backend=choose_backend(backend))
        refuse_rare(spec, probe(spec, simulate, CHECK_CANDIDATES, enough=ENOUGH), least)
