"""Memory and time of the 3-D lattice at full size (15×15×11 own sets of weights, B = 8, T = 64), feature by feature.

python -m benchmarks.lattice [--toy] [--features] [--time T] [--volumes B] [--updates N] [--json]
python -m benchmarks.lattice --sparse [--toy]               event-driven steps beside dense ones, by share of cells
python -m benchmarks.lattice --family                       tokens per second of `lattice-small`, one core

Each row is measured in a process of its own, since a process's peak is its own. `lattice_row` and `epoch` are what
other benchmarks call. An epoch is 128 updates.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.arguments import whole

EPOCH = 128
BASE: dict[str, Any] = {
    "lattice": {"size": [15, 15, 11], "types": 2475, "boundary": "zero", "last_scale": 0.3},
    "target": {"kind": "growth", "shapes": 8},
    "steps": 1,
    "batch": 8,
    "micro_batches": 8,
    "time": [64, 64],
    "segment": 4,
    "optimizer": {"name": "adamw", "weight_decay": 0.0},
}
TOY: dict[str, Any] = {
    "lattice": {**BASE["lattice"], "size": [5, 5, 5], "types": 125},
    "time": [8, 8],
    "batch": 2,
    "micro_batches": 2,
}
# Each feature the other way round than in BASE.
FEATURES: dict[str, dict[str, Any]] = {
    "base": {},
    "bf16": {"precision": "bf16"},
    "8-bit moments": {"optimizer": {"name": "adamw8bit", "weight_decay": 0.0}},
    "no recomputation": {"recompute": False},
    "states offloaded": {"offload": True},
    "2 micro-batches": {"micro_batches": 2},
    "16 types": {"types": 16},
    "1 type": {"types": 1},
    "16 types, rank 4": {"types": 16, "rank": 4},
}


def config_of(toy: bool, changes: dict[str, Any], **size: Any) -> dict[str, Any]:
    """The training config of a row; ``size`` replaces what BASE or TOY says, and what is None there does not."""
    made = {**BASE, **(TOY if toy else {}), **{key: value for key, value in size.items() if value is not None}}
    own = {key: value for key, value in changes.items() if key not in ("types", "rank")}
    lattice = {**made["lattice"], **{key: changes[key] for key in ("types", "rank") if key in changes}}
    return {"precision": "auto", **made, **own, "lattice": lattice}


def lattice_row(
    toy: bool = False, feature: str = "base", updates: int = 1, device: str | None = None, **size: Any
) -> dict[str, Any]:
    """`measure_updates` of one feature and `bmm_speed` at its shapes, in this process; ``size`` as in `config_of`."""
    from trainer.lattice.measure import bmm_speed, measure_updates
    from trainer.lattice.train_config import parse_lattice_config

    config = parse_lattice_config(config_of(toy, FEATURES[feature], **size))
    found = measure_updates(config, updates, device)
    alone = bmm_speed(config, device)
    found["bmm"] = alone
    found["share_of_bmm"] = found["flops_per_cpu_s"] / alone["flops_per_cpu_s"]
    if found["device"] != "cpu":
        found["share_of_bmm"] = found["flops_per_s"] / alone["flops_per_s"]
    return found


def epoch(toy: bool = False, device: str | None = None) -> dict[str, Any]:
    """Seconds of an epoch (128 updates) and peak bytes, from a few updates: what `make gpu` asks.

    On a GPU an update is two pieces: more would launch smaller kernels, one would hold more than 2 GB.
    """
    size = {"micro_batches": 2} if device is not None and device != "cpu" else {}
    row = lattice_row(toy, "base", 2 if toy else 8, device, **size)
    return {"epoch_s": EPOCH * sum(row["seconds"].values()), "peak_bytes": row["bytes"]["peak"], **row}


def sparse_steps(toy: bool, types: int, volumes: int, repeats: int = 5) -> dict[str, float]:
    """CPU milliseconds of a dense step without gradients, and of event-driven ones that compute a share of cells."""
    import torch

    from trainer.lattice.cell import Effective, Lattice
    from trainer.lattice.sparse import Sparse
    from trainer.lattice.step import step
    from trainer.lattice.train_config import parse_lattice_config

    config = parse_lattice_config(config_of(toy, {"types": types})).lattice
    model = Lattice(config, 0)
    wiring, draw = model.wiring, torch.Generator().manual_seed(0)
    state = torch.randn(wiring.rows, volumes, config.channels, generator=draw)
    found: dict[str, float] = {}
    with torch.no_grad():
        weights = Effective(*(tensor.detach() for tensor in model.effective().tensors()))
        for name, share in [("dense", 1.0), *((f"{share:.0%}", share) for share in (1.0, 0.75, 0.5, 0.25, 0.1))]:
            fires = (torch.rand(wiring.rows, 1, 1, generator=draw) < share).float().expand(-1, volumes, 1)
            taken = []
            for _ in range(repeats + 1):
                begun = time.process_time()
                if name == "dense":
                    step(config, wiring, weights, state, fires)
                else:
                    Sparse(0.0).step(config, wiring, weights, state, fires, whole=False)
                taken.append(time.process_time() - begun)
            found[name] = 1000 * sorted(taken[1:])[repeats // 2]
    return found


def family_speed(rows: int = 60, runs: int = 7) -> list[float]:
    """Tokens of `lattice-small`, simulated and tokenised, per CPU second of one thread; each run's, the least first."""
    import numpy as np

    from generator import load_preset
    from generator.families import lattice

    spec, found = load_preset("lattice-small"), []
    for number in range(runs + 1):
        ids = np.arange(number * rows, (number + 1) * rows)
        begun = time.thread_time()
        tokens = lattice.simulate(spec, 0, ids, np.zeros_like(ids), "numba").tokens
        found.append(tokens.size / (time.thread_time() - begun))
    return sorted(found[1:])  # the first one compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="5×5×5, T = 16: seconds on any machine")
    parser.add_argument("--features", action="store_true", help="a row for each feature, not only the base")
    parser.add_argument("--family", action="store_true", help="tokens per second of the generator's family `lattice`")
    parser.add_argument("--sparse", action="store_true", help="event-driven steps beside dense ones")
    parser.add_argument("--updates", type=whole(), default=1)
    parser.add_argument("--time", type=whole(), help="steps of an update (64; --toy: 16)")
    parser.add_argument("--volumes", type=whole(), help="volumes of an update, one after the other (8; --toy: 4)")
    parser.add_argument("--feature", choices=FEATURES, help="one row, as JSON, in this process")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    if told.sparse:
        for types in (1, 16, 125 if told.toy else 2475):
            for volumes in (1, 8):
                taken = ", ".join(f"{name} {ms:.2f}" for name, ms in sparse_steps(told.toy, types, volumes).items())
                print(f"{types:4d} types, {volumes} volumes, CPU-ms a step: {taken}", flush=True)
        return
    if told.family:
        speeds = family_speed()
        print(f"lattice-small: {speeds[len(speeds) // 2]:,.0f} tokens/CPU-s ({speeds[0]:,.0f} to {speeds[-1]:,.0f})")
        return
    if told.feature:
        size = {"batch": told.volumes, "micro_batches": told.volumes, "time": told.time and [told.time] * 2}
        print(json.dumps(lattice_row(told.toy, told.feature, told.updates, **size)))
        return
    for feature in FEATURES if told.features else ["base"]:
        more = ["--toy"] if told.toy else []
        more += [f"--{name}={getattr(told, name)}" for name in ("time", "volumes", "updates") if getattr(told, name)]
        command = [sys.executable, "-m", "benchmarks.lattice", "--feature", feature, *more]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if told.json:
            print(json.dumps({"feature": feature, **row}))
            continue
        size = {name: round(value / 1e6) for name, value in row["bytes"].items()}
        rest = ", ".join(f"{name} {size[name]}" for name in size if name not in ("peak", "reserved"))
        seconds, gigaflops = sum(row["cpu_seconds"].values()), row["bmm"]["flops_per_cpu_s"] / 1e9
        grown = round((row["held"][-1] - row["held"][0]) / 1e6)
        print(
            f"{feature:18s} peak {size['peak']:5d} MB ({rest}; {grown:+d} since the first update), "
            f"loss {row['losses'][-1]:.3f}, {seconds:7.2f} CPU-s an update, "
            f"{row['cell_updates_per_cpu_s']:9,.0f} cell updates/CPU-s, {row['share_of_bmm']:.0%} of bmm's "
            f"{gigaflops:.1f} GFLOP/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
