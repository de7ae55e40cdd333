"""Family `lattice`: numba equals NumPy, and NumPy equals itself of before; weights by their digest; what is refused."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from generator import GeneratorError, SpecError, decode_tokens, generate_batch, list_presets, load_preset, parse_spec
from generator.cost import candidate_cost
from generator.errors import WeightsError
from generator.families import lattice
from generator.lattice import weights
from tests.generator.lattice_networks import network_file

SHAPES = [{}, {"channels": 16, "hidden": 8, "feed": 5, "types": 4}]
SHIFTS = ("w_in", "w_gate", "gain", "w_read", "w_up", "w_down")
# Of the sizes of `lattice-small`, so that one kernel serves both, and of others: an odd number, widths that fill no
# tile; with weights of middling, of the coarsest (the largest sums and changes) and of mixed units.
COMPILED: list[dict[str, Any]] = [
    {"feed": 16},
    SHAPES[1],
    {"feed": 16, "about": {"shifts": dict.fromkeys(SHIFTS, 1)}},
    {"feed": 16, "about": {"shifts": dict(zip(SHIFTS, (12, 1, 3, 7, 2, 9), strict=True))}},
]


def provided(shapes: list[dict[str, Any]]) -> list[str]:
    return [weights.provide(network_file(seed, **shape)) for seed, shape in enumerate(shapes)]


@pytest.fixture(scope="module")
def digests() -> list[str]:
    return provided(SHAPES)


@pytest.fixture(scope="module")
def compiled_digests() -> list[str]:
    return provided(COMPILED)


def drawn_spec(draw: np.random.Generator, digest: str) -> dict:
    """Any lattice of up to a few hundred cells, shown in any patches that fit."""
    patch = [int(draw.integers(1, 4)) for _ in range(3)]
    grid = [side * int(draw.integers(1, 4)) for side in patch]
    while np.prod(grid) < 16:
        grid[0] += patch[0]
        grid[1] += patch[1]
    colors = int(draw.choice([2, 4]))
    layout = str(draw.choice(["blocks", "columns"])) if grid[0] * grid[1] >= 4 else "blocks"
    if colors ** int(np.prod(patch)) > 60_000:
        patch = [1, 1, 1]
    return {
        "family": "lattice",
        "weights": digest,
        "grid": grid,
        "patch": patch,
        "colors": colors,
        "boundary": str(draw.choice(["torus", "zero"])),
        "layout": layout,
        "fire": float(draw.choice([0.2, 0.5, 1.0])),
        "burn_in": int(draw.integers(0, 4)),
        "stride": int(draw.integers(1, 3)),
        "damage": float(draw.choice([0.0, 0.5, 1.0])),
        "modulation": int(draw.integers(0, 9)),
        "seq_len": int(draw.integers(2, 200)),
    }


def test_numba_equals_the_definition_on_120_drawn_settings(compiled_digests):
    draw = np.random.default_rng(15)
    different = set()
    for number in range(120):
        spec = parse_spec(drawn_spec(draw, compiled_digests[number % 4]))
        ids = np.array([0, int(draw.integers(1 << 40))])
        attempts = np.array([0, int(draw.integers(1 << 15))])
        seed = int(draw.integers(1 << 62))
        expected = lattice.simulate(spec, seed, ids, attempts, "reference")
        found = lattice.simulate(spec, seed, ids, attempts, "numba")
        assert (found.tokens == expected.tokens).all(), spec
        assert (found.content == expected.content).all(), spec
        different.add(expected.tokens.tobytes())
    assert len(different) > 110


GOLDEN = "59b3ab36df18fb767a19363321adff52561410cfcf5af59357cbb1acbf9da035"


def test_sequences_do_not_change(digests):
    total = hashlib.sha256()
    draw = np.random.default_rng(3)
    for number in range(10):
        spec = parse_spec(drawn_spec(draw, digests[number % 2]))
        total.update(lattice.simulate(spec, 1 << 61, np.arange(3), np.arange(3), "reference").tokens.tobytes())
    assert total.hexdigest() == GOLDEN, "raise GENERATOR_VERSION, or undo the change"


def test_sequences_differ_and_decode(compiled_digests):
    spec = parse_spec(
        {"family": "lattice", "weights": compiled_digests[0], "grid": [6, 5, 4], "patch": [3, 5, 1], "seq_len": 90}
    )
    assert (spec.vocab_size, spec.frame_tokens) == (2**15 + 2, 10)
    table = generate_batch(spec, 7, 0, 6, backend="numba", threads=1)
    tokens = [np.frombuffer(row, "<u2") for row in table["tokens"].to_pylist()]
    assert len({row.tobytes() for row in tokens}) == 6
    frames = decode_tokens(spec, tokens[0])
    assert frames.shape == (9, 6, 5, 4)
    assert (frames[0] == 0).all()  # a lattice begins with nothing


def test_a_file_is_known_by_its_digest(digests):
    data = network_file(9, **COMPILED[0])
    absent = weights.digest_of(data)
    spec = parse_spec({"family": "lattice", "weights": absent, "grid": [4, 4, 4]})
    with pytest.raises(WeightsError, match=f"no file with SHA-256 {absent}"):
        generate_batch(spec, 0, 0, 1)
    with pytest.raises(WeightsError, match="the spec names " + digests[0]):
        weights.provide(data, digests[0])
    assert weights.provide(data, absent) == absent
    generate_batch(spec, 0, 0, 1, threads=1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "a header of 0 bytes"),
        (b"\xff" * 40, "a header of"),
        (network_file(0)[:-1], "no file of a lattice"),
        (network_file(0, about={"format": "2"}), "format '2'"),
        (network_file(0, about={"types": 2}), "shapes"),
        (network_file(0, about={"goal": 99}), "sizes"),
        (network_file(0, about={"shifts": {"w_in": 1}}), "shifts"),
        (network_file(0, channels=12), "powers of two"),
    ],
)
def test_what_is_no_network_is_refused(data, said):
    with pytest.raises(WeightsError, match=said):
        weights.provide(data)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grid": [5, 4, 4]}, "grid: side 5 is not divisible by patch 2"),
        ({"patch": [4, 4, 1], "colors": 4}, "colors: 4 colours in patches of 4x4x1 cells need a vocabulary of"),
        ({"patch": [17, 1, 1], "grid": [17, 4, 4]}, "patch: side 17"),
        ({"patch": [2, 2]}, "patch"),
        ({"colors": 3}, "colors: 3 is no power of two"),
        ({"weights": "abc"}, "weights"),
        ({"stride": 1000, "grid": [40, 40, 40]}, "stride: .* cell updates"),
    ],
)
def test_specs_that_cannot_be_are_refused(digests, fields, said):
    with pytest.raises(SpecError, match=said):
        parse_spec({"family": "lattice", "weights": digests[0], "grid": [4, 4, 4], **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grid": [2, 1, 1], "patch": [1, 1, 1]}, "grid: 2 cells for weights of 3 types"),
        ({"colors": 8, "patch": [1, 1, 1]}, "colors: 8 show 3 channels, the weights have 2 visible"),
    ],
)
def test_weights_that_do_not_fit_the_spec_are_refused(digests, fields, said):
    spec = parse_spec({"family": "lattice", "weights": digests[0], "grid": [4, 4, 4], **fields})
    with pytest.raises(GeneratorError, match=said):
        generate_batch(spec, 0, 0, 1, threads=1)


def test_costs_are_bounded_before_anything_is_computed(digests):
    small = parse_spec({"family": "lattice", "weights": digests[0], "grid": [4, 4, 4]})
    large = parse_spec({"family": "lattice", "weights": digests[0], "grid": [16, 16, 16], "stride": 9})
    assert candidate_cost(large).operations > 40 * candidate_cost(small).operations
    assert candidate_cost(large).bytes > candidate_cost(small).bytes


def test_the_preset_brings_its_weights():
    assert "lattice-small" in list_presets()
    spec = load_preset("lattice-small")
    assert weights.has(spec.weights)
    found = generate_batch(spec, 0, 0, 2, backend="numba", threads=1)
    assert found.equals(generate_batch(spec, 0, 0, 2, backend="reference", threads=1))
    tokens = np.frombuffer(found["tokens"][0].as_py(), "<u2")
    assert len(np.unique(tokens)) > 20
