"""Files of lattices in whole numbers, drawn for tests: not trained, so that they reach every corner."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from generator.lattice.weights import FORMAT
from generator.lattice.wiring import POSITIONS


def network_file(
    seed: int, channels: int = 8, hidden: int = 16, feed: int = 8, types: int = 3, about: dict[str, Any] | None = None
) -> bytes:
    """A safetensors file whose weights fill their ranges. ``about`` changes what its metadata says."""
    draw, h = np.random.default_rng(seed), hidden // 2
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "w_in": ((types, channels, hidden), 127),
        "b_in": ((types, hidden), 20_000),
        "w_gate": ((types, POSITIONS, POSITIONS), 127),
        "gain": ((types, h), 127),
        "shift": ((types, POSITIONS, h), 400_000),
        "w_read": ((types, POSITIONS * h, channels), 127),
        "b_read": ((types, channels), 20_000),
        "w_up": ((types, channels, feed), 127),
        "b_up": ((types, feed), 20_000),
        "w_down": ((types, feed, channels), 127),
        "b_down": ((types, channels), 20_000),
    }
    arrays = {}
    for name, (shape, most) in shapes.items():
        kind = "<i1" if most == 127 else "<i4"
        arrays[name] = (most * draw.uniform(-1, 1, shape) ** 3).round().astype(kind)
    said = {
        "format": FORMAT,
        "channels": channels,
        "visible": 2,
        "goal": 2,
        "hidden": hidden,
        "feed": feed,
        "types": types,
        "shifts": dict.fromkeys(("w_in", "w_gate", "gain", "w_read", "w_up", "w_down"), 6),
        **(about or {}),
    }
    header: dict[str, Any] = {"__metadata__": {"lattice": json.dumps(said)}}
    body = b""
    for name, array in arrays.items():
        place = [len(body), len(body) + array.nbytes]
        header[name] = {
            "dtype": "I8" if array.itemsize == 1 else "I32",
            "shape": list(array.shape),
            "data_offsets": place,
        }
        body += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
