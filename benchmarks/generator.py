"""Tokens per second of every stage of the generator at the `paper` preset.

    python -m benchmarks.generator [--backend numba|reference|triton] [--threads N] [--json]
    python -m benchmarks.generator --scores [--json]

Warm-up is excluded; each figure is the median of seven timed runs, with the least and the greatest. `simulate` makes
the same cell updates but tokenises only the ten frames that scoring needs; `end-to-end` counts accepted tokens
written to Parquet. With --json, one object per line and no roofline. With --scores, for every preset the rows that
zlib and the kernel score in a second of CPU time, on rows that neither has seen, by turns on one thread.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.arguments import whole
from benchmarks.peak import measured_peak
from benchmarks.torch_baseline import TorchBaseline
from generator import generate_batch, list_presets, load_preset, measure_acceptance
from generator.batch import choose_backend, thread_count
from generator.errors import BackendError
from generator.families import nca
from generator.families.nca import NcaSpec
from generator.family import family_of
from generator.gzip_kernel import stream_sizes
from generator.nca.lattice import Lattice
from generator.score import score_content, zlib_sizes

RUNS = 7


@dataclass(frozen=True)
class Figure:
    """One line of the result; rates in tokens per second."""

    stage: str
    backend: str
    cores: int
    tokens_per_s: float
    min: float
    max: float


def timed(stage: str, backend: str, cores: int, tokens: int, run: Callable[[int], object], runs: int = RUNS) -> Figure:
    """Time `run(number)` `runs` times after one unmeasured call; each makes `tokens` tokens."""
    run(0)
    rates = []
    for number in range(1, runs + 1):
        started = time.perf_counter()
        run(number)
        rates.append(tokens / (time.perf_counter() - started))
    return Figure(stage, backend, cores, statistics.median(rates), min(rates), max(rates))


def scored_frames_only(spec: NcaSpec) -> NcaSpec:
    """The same number of cell updates, of which only the frames that are scored become tokens."""
    frames = 10
    skipped = (spec.frames - frames) * spec.stride
    return spec.model_copy(update={"burn_in": spec.burn_in + skipped, "seq_len": frames * spec.frame_tokens})


def simulation(spec: NcaSpec, backend: str, cores: int, count: int) -> Callable[[int], object]:
    """A run that simulates `count` fresh first candidates, split over the cores."""

    def part(first: int, length: int) -> object:
        ids = np.arange(first, first + length, dtype=np.int64)
        return nca.simulate(spec, 0, ids, np.zeros_like(ids), backend).tokens.shape

    def run(number: int) -> object:
        if cores == 1 or backend == "triton":
            return part(number * count, count)
        share = -(-count // (4 * cores))
        with ThreadPoolExecutor(cores) as pool:
            return list(pool.map(lambda first: part(number * count + first, share), range(0, count, share)))

    return run


def device_simulation(spec: NcaSpec, count: int) -> Callable[[int], object]:
    """The launch alone, tokens left in device memory."""
    import torch

    from generator.nca.triton_backend import launch

    def run(number: int) -> object:
        ids = np.arange(number * count, (number + 1) * count, dtype=np.int64)
        tokens = launch(spec, 0, ids, np.zeros_like(ids))
        if tokens.is_cuda:
            torch.cuda.synchronize()
        return tokens.shape

    return run


def scoring(spec: NcaSpec, cores: int, count: int) -> Callable[[int], object]:
    """A run that scores the content of `count` candidates, made beforehand, on the cores."""
    ids = np.arange(count, dtype=np.int64)
    content = nca.simulate(spec, 0, ids, np.zeros_like(ids), "numba").content
    pieces = np.array_split(content, max(1, count // 64))

    def run(number: int) -> object:
        del number
        with ThreadPoolExecutor(cores) as pool:
            return list(pool.map(lambda piece: score_content(spec, piece), pieces))

    return run


def measure(backend: str, cores: int, spec: NcaSpec, runs: int = RUNS) -> Iterator[Figure]:
    """All stages in turn."""
    count = {"numba": 2048 * cores, "reference": 32, "triton": 65_536}[backend]
    scored = 2048 * cores
    if os.environ.get("TRITON_INTERPRET") == "1" and backend == "triton":
        count, scored = 1, 16
    tokens = count * spec.seq_len
    short = scored_frames_only(spec)
    if backend == "triton":
        yield timed("simulate", backend, cores, tokens, device_simulation(short, count), runs)
        yield timed("simulate+tokenise", backend, cores, tokens, device_simulation(spec, count), runs)
    else:
        yield timed("simulate", backend, cores, tokens, simulation(short, backend, cores, count), runs)
        yield timed("simulate+tokenise", backend, cores, tokens, simulation(spec, backend, cores, count), runs)
    yield timed("score", "gzip", cores, scored * spec.seq_len, scoring(spec, cores, scored), runs)
    kept = min(8, count) if count < 64 else min(count, 2048 * cores)
    with tempfile.TemporaryDirectory() as folder:

        def shard(number: int) -> None:
            table = generate_batch(spec, 0, number * kept, kept, backend=backend, threads=cores)
            pq.write_table(table, Path(folder) / f"{number}.parquet", compression="none", use_dictionary=False)

        yield timed("end-to-end", backend, cores, kept * spec.seq_len, shard, runs)
    baseline = TorchBaseline(spec, batch=256, threads=cores)
    yield timed("torch-baseline", "torch", cores, 256 * spec.seq_len, baseline.run, runs)


@dataclass(frozen=True)
class Scores:
    """Rows scored in a second of one core's time, and how many times zlib's rate the kernel's is."""

    preset: str
    row_bytes: int
    zlib: float
    kernel: float
    ratio: float
    min: float
    max: float


def compare_scores(preset: str, runs: int = 11, seconds: float = 0.05) -> Scores:
    """zlib and the kernel in turn, each about so long in each run, on rows that are made for the run alone."""
    spec = load_preset(preset)

    def rows(first: int, count: int) -> np.ndarray:
        ids = np.arange(first, first + count, dtype=np.int64)
        content = family_of(spec).simulate(spec, 0, ids, np.zeros_like(ids), "numba").content
        return np.ascontiguousarray(content, "<i4").view(np.uint8)

    def cpu_time(score: Callable[[np.ndarray], np.ndarray], some: np.ndarray) -> float:
        started = time.thread_time()
        score(some)
        return time.thread_time() - started

    stream_sizes(rows(0, 2))
    count = max(16, int(64 * seconds / cpu_time(zlib_sizes, rows(0, 64))))
    by_zlib, by_kernel = [], []
    for run in range(runs):
        fresh = rows((run + 1) * count, count)
        for score, times in ((zlib_sizes, by_zlib), (stream_sizes, by_kernel))[:: 1 if run % 2 else -1]:
            times.append(cpu_time(score, fresh))
    ratios = [a / b for a, b in zip(by_zlib, by_kernel, strict=True)]
    rates = (count / statistics.median(times) for times in (by_zlib, by_kernel))
    return Scores(preset, fresh.shape[1], *rates, statistics.median(ratios), min(ratios), max(ratios))


def report_scores(as_json: bool) -> None:
    """A line for every preset."""
    for preset in list_presets():
        found = compare_scores(preset)
        if as_json:
            print(json.dumps(asdict(found)), flush=True)
        else:
            rates = f"zlib {found.zlib:9,.0f} rows/s, kernel {found.kernel:9,.0f}"
            print(
                f"{preset:14} {found.row_bytes:6} bytes  {rates}, ratio {found.ratio:5.2f} "
                f"({found.min:.2f} to {found.max:.2f})",
                flush=True,
            )


def integer_operations_per_token(spec: NcaSpec, products: bool = True) -> float:
    """Adds and multiplies that the updates of a sequence need, counted from the spec: table rows summed, shift and
    clamp, two per product of the second layer (with `products`), one per colour of the argmax."""
    update = Lattice.of(spec).neighbors * spec.hidden + 2 * spec.hidden + spec.colors
    update += 2 * spec.hidden * spec.colors * products
    return update * spec.cells * spec.steps / spec.seq_len


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__.split("\n")[0])
    parser.add_argument("--backend", default="auto", choices=["auto", "numba", "reference", "triton"])
    parser.add_argument(
        "--threads", type=whole(most=thread_count(None)), default=None, help="cores to use; default all"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scores", action="store_true", help="compare zlib and the kernel, and nothing else")
    options = parser.parse_args()
    if options.scores:
        report_scores(options.json)
        return
    try:
        backend, cores = choose_backend(options.backend), thread_count(options.threads)
    except BackendError as error:
        parser.error(str(error))
    spec = load_preset("paper")
    assert isinstance(spec, NcaSpec)
    found: dict[str, Figure] = {}
    for figure in measure(backend, cores, spec):
        found[figure.stage] = figure
        if options.json:
            print(json.dumps(asdict(figure)), flush=True)
        else:
            place = f"{figure.stage:18} {figure.backend:9} {figure.cores:3} cores"
            spread = f"({figure.min / 1e6:.3f} to {figure.max / 1e6:.3f})"
            print(f"{place} {figure.tokens_per_s / 1e6:10.3f} M tokens/s  {spread}", flush=True)
    if not options.json:
        report(found, cores, spec)


def report(found: dict[str, Figure], cores: int, spec: NcaSpec) -> None:
    """Ratios between the stages and the roofline line."""
    made, score = found["simulate+tokenise"], found["score"]
    rate = measure_acceptance(spec).rate
    print(
        f"acceptance {rate:.3f}; scoring alone would allow {score.tokens_per_s * rate / 1e6:.3f} M accepted tokens/s;"
    )
    print(f"  end to end reaches {found['end-to-end'].tokens_per_s / (score.tokens_per_s * rate):.0%} of that")
    print(f"simulate+tokenise is {made.tokens_per_s / found['torch-baseline'].tokens_per_s:.0f} times plain PyTorch")
    operations = integer_operations_per_token(spec)
    if made.backend == "triton":
        print(
            f"roofline: {operations:.0f} integer operations and 2 bytes written a token; `python -m benchmarks.gpu` "
            "measures the device's peak"
        )
        return
    peak = measured_peak()
    share = operations * made.tokens_per_s / cores / peak
    print(
        f"roofline: {operations:.0f} integer operations and 2 bytes written a token; this core's measured peak is "
        f"{peak / 1e9:.0f} G byte-product operations/s; the kernel reaches {share:.0%} of it"
    )


if __name__ == "__main__":
    main()
