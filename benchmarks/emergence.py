"""What several lattices learn: seeds and variants of the files in `experiments/lattice`, a process each.

    python -m benchmarks.emergence [--sets growth …] [--jobs 1] [--device cuda] [--minutes M] [--out DIR] [--toy]

DIR gets `NAME.json` for each run when it ends: its settings, losses, evaluations and the full scores of
`trainer.lattice.evaluate.evaluate_lattice`; a run whose file is there is not run again. After M minutes runs are
stopped where they are, and not judged. In float32, so that a network in whole numbers is exact.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.arguments import above_zero, folder, whole

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
LONG = 10_000
# What differs from growth.toml, one at a time.
FEATURES: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "8-bit-moments": {"optimizer": {"name": "adamw8bit"}},
    "1-type": {"lattice": {"types": 1}},
    "125-types": {"lattice": {"types": 125}},
    "16-types-rank-2": {"lattice": {"rank": 2}},
    "no-quantisation": {"quantise_fraction": 0.0},
}


def runs_of(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The runs of a set by name: the file each is of, and what differs from it."""
    if name == "features":
        return {f"feature-{each}": ("growth", changes) for each, changes in FEATURES.items()}
    if name == "long":
        return {f"long-{seed}": ("growth", {"steps": LONG, "batch": 4, "seed": seed}) for seed in SEEDS}
    return {f"{name}-{seed}": (name, {"seed": seed}) for seed in SEEDS}


SETS = ("growth", "surface", "long", "features")


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, table by table."""
    found = dict(base)
    for key, value in changes.items():
        found[key] = merged(base.get(key, {}), value) if isinstance(value, dict) else value
    return found


def train_and_judge(name: str, fields: dict[str, Any], device: str, ends: float) -> dict[str, Any]:
    """Train one lattice until it is done or the time is over; judge it if it is done."""
    import torch

    from datalake import Lake
    from trainer import Ranks
    from trainer.lattice.evaluate import evaluate_lattice
    from trainer.lattice.learner import LatticeJob
    from trainer.lattice.loop import run_lattice
    from trainer.lattice.publish import open_lattice
    from trainer.lattice.targets import make_target
    from trainer.lattice.train_config import parse_lattice_config

    config = parse_lattice_config({"precision": "fp32", **fields, "publish": "judged"})
    losses: list[list[float]] = []
    evals: list[dict[str, Any]] = []
    stop = threading.Event()

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            losses.append([event["step"], event["loss"]])
        if event["event"] == "eval":
            evals.append({key: value for key, value in event.items() if key not in ("event", "dataset")})
        if time.monotonic() > ends:
            stop.set()

    with tempfile.TemporaryDirectory() as folder:
        job, ranks = LatticeJob(config, Lake.open(folder), name), Ranks.here(device=device)
        began, cpu = time.monotonic(), time.process_time()
        result = run_lattice(job, ranks, on_event=note, stop=stop)
        found = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
        if result.model is not None:
            _, model = open_lattice(job.lake, job.lake.models.get(result.model))
            target = make_target(config.lattice, config.target)
            found["scores"] = evaluate_lattice(config, model.to_device(ranks.device), target, "fp32", full=True)
    on_gpu = ranks.device.type == "cuda"
    return {
        "name": name,
        "status": result.status,
        "updates": result.step,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else "cpu",
        **found,
        "config": config.model_dump(mode="json"),
        "losses": losses,
        "evals": evals,
    }


def run_one(name: str, device: str, ends: float, out: Path, toy: bool) -> None:
    """Train and judge the run of this name, and write its file."""
    file, changes = {each: what for kind in SETS for each, what in runs_of(kind).items()}[name]
    fields = tomllib.loads((ROOT / "experiments" / "lattice" / f"{file}.toml").read_text(encoding="utf-8"))
    fields = merged(fields, changes | {"checkpoint_every": LONG, "eval_volumes": 64})
    if toy:
        fields |= {"steps": 6, "log_every": 1, "eval_volumes": 2, "schedule": {"warmup_steps": 1}}
    found = train_and_judge(name, fields, device, ends)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {found['status']} after {found['updates']} updates, {found['cpu_seconds']:.0f} CPU-s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help=f"of {', '.join(SETS)}; all")
    parser.add_argument("--jobs", type=whole(), default=1, help="runs at a time; default 1")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default cpu")
    parser.add_argument("--minutes", type=above_zero, default=24 * 60.0, help="for all of it")
    parser.add_argument("--out", type=folder, default=Path("emergence"), help="folder of results; default emergence")
    parser.add_argument("--toy", action="store_true", help="six updates each")
    parser.add_argument("--run", help="one run, in this process")
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * told.minutes
    if told.run:
        run_one(told.run, told.device, ends, told.out, told.toy)
        return

    def start(name: str) -> int:
        left = (ends - time.monotonic()) / 60
        if (told.out / f"{name}.json").exists() or left <= 0:
            return 0
        command = [sys.executable, "-m", "benchmarks.emergence", "--run", name, "--device", told.device]
        command += ["--minutes", str(left), "--out", str(told.out), *(["--toy"] if told.toy else [])]
        return subprocess.run(command, check=False).returncode

    names = [name for kind in told.sets for name in runs_of(kind)]
    with ThreadPoolExecutor(told.jobs) as pool:
        sys.exit(max(pool.map(start, names)))


if __name__ == "__main__":
    main()
