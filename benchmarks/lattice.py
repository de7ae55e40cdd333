"""Memory and time of the 3-D lattice at full size (15×15×11 own sets of weights, B = 8, T = 64), feature by feature.

python -m benchmarks.lattice [--toy] [--features] [--json]

Each row is measured in a process of its own, since a process's peak is its own. `lattice_row` and `epoch` are what
other benchmarks call. An epoch is 128 updates.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

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
    "time": [16, 16],
    "batch": 4,
    "micro_batches": 4,
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


def config_of(toy: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """The training config of a row."""
    made = {**BASE, **(TOY if toy else {})}
    own = {key: value for key, value in changes.items() if key not in ("types", "rank")}
    lattice = {**made["lattice"], **{key: changes[key] for key in ("types", "rank") if key in changes}}
    return {"precision": "auto", **made, **own, "lattice": lattice}


def lattice_row(
    toy: bool = False, feature: str = "base", updates: int = 1, device: str | None = None
) -> dict[str, Any]:
    """`measure_updates` of one feature and `bmm_speed` at its shapes, in this process."""
    from trainer.lattice.measure import bmm_speed, measure_updates
    from trainer.lattice.train_config import parse_lattice_config

    config = parse_lattice_config(config_of(toy, FEATURES[feature]))
    found = measure_updates(config, updates, device)
    alone = bmm_speed(config, device)
    found["bmm"] = alone
    found["share_of_bmm"] = found["flops_per_cpu_s"] / alone["flops_per_cpu_s"]
    if found["device"] != "cpu":
        found["share_of_bmm"] = found["flops_per_s"] / alone["flops_per_s"]
    return found


def epoch(toy: bool = False, device: str | None = None) -> dict[str, Any]:
    """Seconds of an epoch (128 updates) and peak bytes, from a few updates: what `make gpu` asks."""
    updates = 2 if toy else 8
    row = lattice_row(toy, "base", updates, device)
    return {"seconds": EPOCH * sum(row["seconds"].values()), "peak_bytes": row["bytes"]["peak"], **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="5×5×5, T = 16: seconds on any machine")
    parser.add_argument("--features", action="store_true", help="a row for each feature, not only the base")
    parser.add_argument("--updates", type=int, default=1)
    parser.add_argument("--feature", choices=FEATURES, help="one row, as JSON, in this process")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    if told.feature:
        print(json.dumps(lattice_row(told.toy, told.feature, told.updates)))
        return
    for feature in FEATURES if told.features else ["base"]:
        more = ["--toy"] if told.toy else []
        command = [sys.executable, "-m", "benchmarks.lattice", "--feature", feature, *more, f"--updates={told.updates}"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if told.json:
            print(json.dumps({"feature": feature, **row}))
            continue
        size = {name: round(value / 1e6) for name, value in row["bytes"].items()}
        rest = ", ".join(f"{name} {size[name]}" for name in size if name not in ("peak", "reserved"))
        seconds, gigaflops = sum(row["cpu_seconds"].values()), row["bmm"]["flops_per_cpu_s"] / 1e9
        print(
            f"{feature:18s} peak {size['peak']:5d} MB ({rest})  {seconds:7.2f} CPU-s an update, "
            f"{row['cell_updates_per_cpu_s']:9,.0f} cell updates/CPU-s, {row['share_of_bmm']:.0%} of bmm's "
            f"{gigaflops:.1f} GFLOP/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
