"""The CPU kernels for 64-bit Arm, on a machine that is none.

    python -m benchmarks.arm count                       # instructions per cell update, by processor
    python -m benchmarks.arm run FOLDER [--drawn 8] [--processors NAME …]

`count` compiles the `paper` preset's kernel for several processors and counts what its loops are made of. `run` lays
out an arm64 Python in FOLDER (downloaded once, by Debian's apt and dpkg and by pip) and runs the kernels under QEMU: of
every preset, every golden spec of family `nca`, and settings drawn at random three sequences must have the digests that
they have here, and rows of many kinds the gzip sizes that zlib gives here. A kernel takes some 20 s of CPU time to
compile there.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.arguments import folder, whole
from benchmarks.arm.counts import print_counts
from benchmarks.arm.machine import PROCESSORS, ROOT, Machine
from benchmarks.arm.rows import write_rows
from generator import load_preset, parse_spec
from tests.generator.golden_specs import SPECS, digest
from tests.generator.spec_strategy import nca_specs

GOLDEN = ROOT / "tests/golden/generator_digests.json"


def presets() -> dict[str, dict[str, Any]]:
    """Every preset's spec."""
    names = sorted(
        path.name.removesuffix(".toml") for path in files("generator.presets").iterdir() if ".toml" in path.name
    )
    return {f"preset {name}": json.loads(load_preset(name).canonical_json()) for name in names}


def drawn(count: int) -> dict[str, dict[str, Any]]:
    """So many random specs, always the same."""
    if not count:
        return {}
    found: list[dict[str, Any]] = []

    @seed(552)
    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(nca_specs())
    def draw(spec: Any) -> None:
        found.append(json.loads(spec.canonical_json()))

    draw()
    return {f"drawn {number}": fields for number, fields in enumerate(found)}


def run(folder: Path, count: int, names: list[str]) -> int:
    """Compare gzip's sizes and every spec's digest on every processor; how many of them differ."""
    specs = (
        {name: fields for name, fields in SPECS.items() if fields.get("family", "nca") == "nca"}
        | presets()
        | drawn(count)
    )
    golden = json.loads(GOLDEN.read_text())["sha256"]
    machine = Machine(folder)
    listed = folder.resolve() / "specs.json"
    listed.write_text(json.dumps(specs))
    rows = folder.resolve() / "rows.npz"
    write_rows(rows)
    different = 0
    for processor in (each for each in PROCESSORS if each.name in names):
        process = machine.start(processor, ["-m", "benchmarks.arm.inside", str(rows), str(listed)])
        assert process.stdout is not None
        equal = 0
        for line in map(json.loads, process.stdout):
            if "rows" in line:
                different += len(line["unlike"])
                print(f"  gzip sizes of {line['rows']} rows: {line['unlike'] or 'all equal'}", flush=True)
                continue
            if "spec" not in line:
                print(
                    f"{processor.name}: {line['kernel']}; LLVM finds {line['processor']}, {', '.join(line['features'])}"
                )
                continue
            name = line["spec"]
            if name not in golden:
                golden[name] = digest(parse_spec(specs[name]), backend="numba")
            equal += line["sha256"] == golden[name]
            different += line["sha256"] != golden[name]
            print(
                f"  {'equal' if line['sha256'] == golden[name] else 'DIFFERENT'}  {name} ({line['seconds']} s)",
                flush=True,
            )
        if process.wait() or equal < len(specs):
            print(f"{processor.name}: stopped with {process.returncode}, {equal} of {len(specs)} specs equal")
            different += 1
        else:
            print(f"{processor.name}: all {equal} specs equal")
    return different


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("count")
    runs = commands.add_parser("run")
    runs.add_argument("folder", type=folder)
    runs.add_argument("--drawn", type=whole(0), default=8)
    names = [processor.name for processor in PROCESSORS]
    runs.add_argument("--processors", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    if options.command == "count":
        print_counts()
    else:
        sys.exit(min(run(options.folder, options.drawn, options.processors), 1))


if __name__ == "__main__":
    main()
