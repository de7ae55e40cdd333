"""What 164 M, 100 B and 10 T synthetic tokens cost, computed from measured figures and stated prices."""

from __future__ import annotations

import math
from collections.abc import Mapping

SIZES = {"164 M": 164e6, "100 B": 100e9, "10 T": 10e12}
SEQ_LEN = 1024
SHARD_ROWS = 4096  # `generate`'s default
SHARD_TOKENS = SEQ_LEN * SHARD_ROWS

# Measured, on one thread of the machine of docs/log.md. Tokens per second.
GENERATED = 6.81e6  # accepted, end to end into Parquet: `python -m benchmarks.generator --json`
SCORED = 20.8e6  # candidates, the same command
ACCEPTED = 0.459  # of the candidates at band 0.5–1.0: docs/log.md, "generator, CPU"
DIGESTED = 272e6  # content digest, by who has the rows: docs/log.md
SIMULATED_GPU = 1.78e9  # candidates simulated and tokenised by one H100: docs/results/gpu-h100
TRAINED_GPU = 74_261  # tokens that a model of 1.03 B parameters reads on one H100 in bf16, compiled: the same place
COMBINED = 1.8e-6  # seconds of the driver for each shard, to put these digests together: docs/log.md
BYTES_PER_TOKEN = 2.00  # in Parquet: `python -m benchmarks.lake`

# Assumed: US list prices in dollars.
CORE_HOUR = 0.0446  # half a c7i.large, on demand
GPU_HOUR = 4.00  # an H100; in 2026 public offers lie between 2 and 7
PUTS = 0.005 / 1000  # PUT and LIST
GETS = 0.0004 / 1000
GB_MONTH = 0.023  # S3 Standard; the first tier's price for all of it
FLEET = 1000  # cores
PUTS_PER_S = 3500  # what S3 guarantees one prefix, before it splits it further
MAX_PUT = 5 * 2**30  # S3's largest single PUT, the only kind that the lake commits with


def cost_tables(
    sizes: Mapping[str, float], *, manifest_bytes_per_shard: float, opening_s: float, fetched: float, gets_per_gb: float
) -> list[str]:
    """Markdown lines: the costs by size, and where each limit is.

    ``opening_s`` is a manifest's opening, per shard; ``fetched`` what all processes fetch in an epoch by lanes, as a
    multiple of the data, with ``gets_per_gb`` requests.
    """

    def column(tokens: float) -> dict[str, str]:
        shards = math.ceil(tokens / SHARD_TOKENS)
        epoch = (tokens * BYTES_PER_TOKEN * fetched, tokens * BYTES_PER_TOKEN / 1e9 * gets_per_gb)
        return _costs(tokens, shards, shards * manifest_bytes_per_shard, shards * opening_s, epoch)

    columns = [column(tokens) for tokens in sizes.values()]
    lines = ["### Costs", "", f"| tokens | {' | '.join(sizes)} |", f"| --- |{' --- |' * len(sizes)}"]
    lines += [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]]
    shard_rate = GENERATED / SHARD_TOKENS
    limit_shards = MAX_PUT / manifest_bytes_per_shard
    lines += [
        "",
        "### Limits",
        "",
        "| limit | reached at |",
        "| --- | --- |",
        f"| scoring on CPUs, {SCORED * ACCEPTED / 1e6:.1f} M accepted tokens per core-second however fast a GPU "
        f"simulates | at most {SCORED * ACCEPTED / GENERATED:.2f}× today's tokens per core-second |",
        f"| writes to one prefix, {PUTS_PER_S:,} PUT/s | {PUTS_PER_S / shard_rate:,.0f} cores generating at once |",
        f"| manifest in one PUT, 5 GiB | {limit_shards / 1e6:.0f} M shards, "
        f"{limit_shards * SHARD_TOKENS / 1e12:.0f} T tokens |",
        f"| twelve digits of first index in a key | {1e12 * SEQ_LEN / 1e15:.0f} P tokens |",
    ]
    return lines


def _costs(tokens: float, shards: int, manifest: float, opening_s: float, epoch: tuple[float, float]) -> dict[str, str]:
    """``epoch``: bytes and requests of all processes."""
    core_s = tokens / GENERATED
    fleet_s = max(core_s / FLEET, SHARD_TOKENS / GENERATED)  # a shard is made by one core
    stored = tokens * BYTES_PER_TOKEN
    puts = shards + 2 + math.ceil(shards / 1000)  # shards, manifest, log entry, listing
    gets = shards  # is it there already
    gpu_s = tokens / TRAINED_GPU
    return {
        "**generation**, core-seconds": f"{core_s:,.0f}",
        f"wall time on {FLEET:,} cores": _time(fleet_s),
        "content digest, core-seconds of these, and the driver's": f"{tokens / DIGESTED:,.2g}, {shards * COMBINED:.2g}",
        "GPU-seconds, where one simulates": f"{tokens / (SIMULATED_GPU * ACCEPTED):,.2g}",
        "PUT and LIST requests": f"{puts:,}",
        "GET requests": f"{gets:,}",
        f"PUT/s and GET/s while {FLEET:,} cores generate": f"{puts / fleet_s:,.0f} each",
        "dollars, cores": _dollars(core_s * CORE_HOUR / 3600),
        "dollars, requests": _dollars(puts * PUTS + gets * GETS),
        "**lake**, objects (shards)": f"{shards:,}",
        "bytes": _bytes(stored),
        "dollars a month": _dollars(stored / 1e9 * GB_MONTH),
        "manifest": _bytes(manifest),
        "opening it, CPU-seconds per process": f"{opening_s:.2g}",
        "**one epoch** by lanes, GET requests of all processes": f"{epoch[1]:,.0f}",
        "bytes fetched by all processes": _bytes(epoch[0]),
        "dollars, requests of the epoch": _dollars(epoch[1] * GETS),
        "GPU-seconds, 1 B parameters on H100s": f"{gpu_s:,.0f}",
        "dollars, GPUs": _dollars(gpu_s * GPU_HOUR / 3600),
    }


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 10 else f"${amount:.2g}"
