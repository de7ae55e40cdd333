"""The network's file and where a process has it from: what comes with the package, and what a job has provided.

The file is safetensors, written by ``trainer.lattice.whole_file``: int8 matrices, int32 sums, and a JSON text about the
network in its metadata. A spec names it by the SHA-256 of its bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from generator.errors import SpecError, WeightsError
from generator.lattice.wiring import POSITIONS

FORMAT = "1"
MOST_HEADER = 1 << 20
_TYPES: dict[str, Any] = {"I8": np.dtype("<i1"), "I32": np.dtype("<i4")}
EXACT = 1 << 24


@dataclass(frozen=True, eq=False)  # so that it can be a key
class Network:
    """The weights in their units, float32 arrays of whole numbers, K sets of them (H is half of ``hidden``).

    w_in [K, C, 2H], b_in [K, 2H], w_gate [K, 7, 7], gain [K, H], shift [K, 7, H], w_read [K, 7H, C], b_read [K, C],
    w_up [K, C, F], b_up [K, F], w_down [K, F, C], b_down [K, C]. A tensor's unit is 2^-shift.
    """

    channels: int
    visible: int
    goal: int
    hidden: int
    feed: int
    types: int
    shifts: dict[str, int]
    arrays: dict[str, np.ndarray]

    @property
    def gate(self) -> int:
        return self.hidden // 2


_PROVIDED: dict[str, Network] = {}


def digest_of(data: bytes) -> str:
    """The name of a file of weights: its SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def provide(data: bytes, digest: str | None = None) -> str:
    """Make a file's network known to this process; its digest. WeightsError if that is not ``digest``, or the file is
    no such network."""
    found = digest_of(data)
    if digest is not None and found != digest:
        raise WeightsError(f"weights: the bytes have SHA-256 {found}, the spec names {digest}; fetch the right file")
    _PROVIDED[found] = parse(data)
    return found


@cache
def _shipped() -> dict[str, bytes]:
    folder = files("generator.lattice") / "shipped"
    data = [entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".safetensors")]
    return {digest_of(each): each for each in data}


def has(digest: str) -> bool:
    """Whether ``network`` would find ``digest``."""
    return digest in _PROVIDED or digest in _shipped()


def network(digest: str) -> Network:
    """The network of ``digest``. WeightsError where this process has no such file."""
    if digest not in _PROVIDED:
        if digest not in _shipped():
            raise WeightsError(
                f"weights: no file with SHA-256 {digest} comes with this package or was provided to this process; "
                "publish the lattice to the lake's models (its file whole.safetensors), or name shipped weights"
            )
        provide(_shipped()[digest])
    return _PROVIDED[digest]


def parse(data: bytes) -> Network:
    """The network in a file. WeightsError in one line if there is none."""
    try:
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= min(MOST_HEADER, len(data) - 8):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(data[8 : 8 + length])
        about = json.loads(header.pop("__metadata__")["lattice"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r}, {FORMAT!r} is read here")
        body = data[8 + length :]
        arrays = {name: _array(body, place) for name, place in header.items()}
        sizes = {name: int(about[name]) for name in ("channels", "visible", "goal", "hidden", "feed", "types")}
        shifts = {name: int(shift) for name, shift in about["shifts"].items()}
        _check(sizes, shifts, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"weights: no file of a lattice in whole numbers ({error}); give whole.safetensors"
        ) from error
    return Network(**sizes, shifts=shifts, arrays=arrays)


def _array(body: bytes, place: dict[str, Any]) -> np.ndarray:
    first, last = place["data_offsets"]
    array = np.frombuffer(body[first:last], dtype=_TYPES[place["dtype"]]).reshape(place["shape"])
    return array.astype(np.float32)


def _check(sizes: dict[str, int], shifts: dict[str, int], arrays: dict[str, np.ndarray]) -> None:
    """ValueError unless the arrays are those of a network whose every sum is exact in float32."""
    c, e, f, k = sizes["channels"], sizes["hidden"], sizes["feed"], sizes["types"]
    if any(value < 1 for value in sizes.values()) or e % 2 or sizes["visible"] + sizes["goal"] > c:
        raise ValueError(f"sizes {sizes}")
    h = e // 2
    if c & (c - 1) or h & (h - 1):
        raise ValueError(f"channels {c} and hidden {e} must be powers of two")
    shapes = {
        "w_in": (k, c, e),
        "b_in": (k, e),
        "w_gate": (k, POSITIONS, POSITIONS),
        "gain": (k, h),
        "shift": (k, POSITIONS, h),
        "w_read": (k, POSITIONS * h, c),
        "b_read": (k, c),
        "w_up": (k, c, f),
        "b_up": (k, f),
        "w_down": (k, f, c),
        "b_down": (k, c),
    }
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        raise ValueError(f"shapes {found}, expected {shapes}")
    if set(shifts) != {"w_in", "w_gate", "gain", "w_read", "w_up", "w_down"} or not all(
        1 <= shift <= 12 for shift in shifts.values()
    ):
        raise ValueError(f"shifts {shifts}")
    if 128 * 128 * max(POSITIONS * h, c, f) + (EXACT >> 4) >= EXACT or any(
        np.abs(array).max() > EXACT >> 4 for array in arrays.values()
    ):
        raise ValueError("sums would leave 24 bits")


def check_types(types: int, cells: int) -> None:
    """SpecError unless each set of weights has a cell."""
    if types > cells:
        raise SpecError(
            f"grid: {cells} cells for weights of {types} types; allowed are at least as many cells as types; "
            "make the grid larger"
        )
