"""Specs whose sequences never change under one GENERATOR_VERSION; run as a script, prints their digests.

python -m tests.generator.golden_specs > tests/golden/generator_digests.json
"""

import hashlib
import json
from typing import Any

from generator import GENERATOR_VERSION, generate_batch, load_preset, parse_spec

SMALL = {"grid": [6, 6], "colors": 3, "hidden": 8, "seq_len": 100}
# Small enough for the reference backend: three sequences each, from one large seed and id.
SPECS: dict[str, dict[str, Any]] = {
    "default": {},
    "published-code": {"compat": True},
    "uniform-start": {"compat": {"init": "uniform"}},
    "von-neumann": {"neighborhood": "von_neumann"},
    "cold": {"temperature": 1e-4, "compat": True},
    "warm": {"temperature": 0.5, "seq_len": 300},
    "hot": {"temperature": 8.0, "colors": 4, "seq_len": 200},
    "identity": {"identity_bias": 0.3, "colors": 7},
    "anti-identity": {"identity_bias": -0.2, "temperature": 0.05},
    "strided": {"stride": 3, "burn_in": 0, "seq_len": 333},
    "wide": {"hidden": 100, "embed": 30, "seq_len": 80},
    "many-colors": {"colors": 250, "patch": 1, "grid": [5, 7], "seq_len": 128},
    "two-colors": {"colors": 2, "patch": 3, "grid": [9, 15], "seq_len": 256},
    "volume": {"grid": [4, 6, 4], "colors": 3, "seq_len": 200},
    "volume-cross": {"grid": [3, 4, 5], "colors": 9, "patch": 1, "neighborhood": "von_neumann", "compat": True},
    "shared-rule-band": {**SMALL, "sequences_per_rule": 2, "band": {"low": 0.15, "high": 0.9}},
    "band-shuffled": {"family": "shuffled", "base": {**SMALL, "band": {"low": 0.15, "high": 0.9}}},
    "dyck": {"family": "dyck", "types": 20, "depth": 7},
    "shuffle-dyck": {"family": "shuffle-dyck", "types": 20, "depth": 30, "open_probability": 0.49},
    "eca": {"family": "eca", "stride": 2},
    "iid": {"family": "iid", "colors": 5},
    "linear-rnn": {"family": "linear-rnn", "seq_len": 100},
    "linear-rnn-published": {
        "family": "linear-rnn",
        "vocabulary": 100,
        "hidden": 64,
        "temperature": 10.0,
        "sequences_per_network": 2,
        "seq_len": 40,
    },
    **{
        f"procedural-{task}": {"family": "procedural", "task": task, "symbols": 12, "seq_len": 100}
        for task in ("identity", "reverse", "sort", "set", "union", "delete", "stack")
    },
    "markov": {"family": "markov"},
    "needle": {"family": "needle"},
    "addition": {"family": "arithmetic", "task": "addition", "digits": 9},
    "multiplication": {"family": "arithmetic", "task": "multiplication", "base": 7},
    "linear-function": {"family": "linear-function"},
}
PRESETS = ("paper", "tiny", "lattice-small")


def digest(spec: Any, backend: str = "reference") -> str:
    """SHA-256 over the columns of three sequences."""
    table = generate_batch(spec, (1 << 61) + 9, (1 << 40) + 1, 3, backend=backend, threads=1)
    total = hashlib.sha256(spec.canonical_json().encode())
    for column in table.columns:
        total.update(column.combine_chunks().buffers()[1].to_pybytes())
    return total.hexdigest()


def digests() -> dict[str, Any]:
    """What the golden file holds."""
    found = {name: digest(parse_spec(fields)) for name, fields in SPECS.items()}
    found |= {f"preset {name}": digest(load_preset(name)) for name in PRESETS}
    return {"generator_version": GENERATOR_VERSION, "sha256": found}


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
