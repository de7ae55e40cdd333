"""Costs by arithmetic: they bound what is measured, keep every path in memory, and refuse bands that cannot be met."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from generator import BandError, check_acceptance, cost, generate_batch, load_preset, parse_spec, profile_spec
from generator.accept import BOUND_TOKENS, refuse_impossible
from generator.cost import candidate_cost, least_check_cost, slice_size
from generator.family import family_of
from generator.score import gzip_sizes, score_content

SPECS = [
    {},
    {"grid": [48, 48], "colors": 3, "temperature": 1.0, "burn_in": 1, "seq_len": 64},
    {"grid": [8, 8, 8], "colors": 2, "hidden": 128, "burn_in": 1, "seq_len": 64},
    {"grid": [16, 16], "patch": 1, "colors": 200, "hidden": 64, "burn_in": 1, "seq_len": 64},
    {"family": "iid", "grid": [64, 64], "seq_len": 4096},
    {"family": "eca", "grid": [1024], "seq_len": 8192, "burn_in": 1},
    {"family": "dyck", "seq_len": 8192},
    {"family": "linear-rnn", "vocabulary": 8192, "hidden": 64, "seq_len": 16},
    {"family": "linear-rnn", "vocabulary": 8, "hidden": 4, "seq_len": 4096},
    {"family": "procedural", "task": "union", "length": 200, "seq_len": 4096},
    {"family": "markov", "vocabulary": 60_000, "states": 4000, "seq_len": 64},
    {"family": "needle", "pairs": 4000, "markers": 30_000},
    {"family": "arithmetic", "task": "multiplication", "seq_len": 30_000},
    {"family": "linear-function", "seq_len": 30_000},
    {"family": "shuffled", "base": {"family": "iid", "grid": [32, 32], "colors": 4, "seq_len": 8192}},
]


@pytest.mark.parametrize("fields", SPECS, ids=lambda fields: str(fields)[:60])
def test_one_candidate_takes_no_more_memory_than_computed(fields: dict):
    spec = parse_spec(fields)
    ids = np.zeros(1, np.int64)
    family_of(spec).simulate(spec, 0, ids, ids, "reference")  # what is made once, such as tables, is not its own
    tracemalloc.start()
    try:
        made = family_of(spec).simulate(spec, 0, ids, ids, "reference")
        gzip_sizes(made.content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < candidate_cost(spec).bytes + 1_000_000


def test_what_a_call_takes_once_is_not_counted_for_every_candidate():
    """A lattice's own weights for each cell: by them its slices were of four candidates, and half of their time was
    spent on beginning."""
    preset = load_preset("lattice-small")
    assert slice_size(preset) >= 64
    spec, peaks = preset.model_copy(update={"grid": (6, 6, 4), "seq_len": 128}), []
    for count in (1, 1, 5):  # the first makes what is made once
        ids = np.arange(count)
        tracemalloc.start()
        try:
            family_of(spec).simulate(spec, 0, ids, np.zeros_like(ids), "reference")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    cost_of_one = candidate_cost(spec)
    assert (peaks[2] - peaks[1]) / 4 < cost_of_one.bytes - cost_of_one.shared


def test_the_cost_counts_cell_updates():
    spec = parse_spec({"grid": [256, 256], "colors": 2, "burn_in": 2000})
    assert candidate_cost(spec).updates == 65_536 * 2009
    assert least_check_cost(spec, 24).updates == 24 * 65_536 * 2009
    assert slice_size(spec) == 1
    assert slice_size(parse_spec({})) >= 256


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch):
    spec = parse_spec(
        {"grid": [8, 8], "colors": 3, "seq_len": 64, "band": {"low": 0.1, "high": 0.4}, "sequences_per_rule": 3}
    )
    table, found = generate_batch(spec, 5, 0, 10, backend="reference"), profile_spec(spec, 5, 40, backend="reference")
    monkeypatch.setattr(cost, "SLICE_BYTES", 2 * candidate_cost(spec).bytes)
    assert slice_size(spec) == 2
    assert generate_batch(spec, 5, 0, 10, backend="reference").equals(table)
    again = profile_spec(spec, 5, 40, backend="reference")
    for name in ("accepted", "histogram", "bands", "periods"):
        assert again[name] == found[name]
    assert again["entropy_nats"] == pytest.approx(found["entropy_nats"])


def test_a_profile_of_large_grids_fits_memory(monkeypatch: pytest.MonkeyPatch):
    spec = parse_spec({"family": "iid", "grid": [64, 64], "init": "uniform", "seq_len": 1026})
    monkeypatch.setattr(cost, "SLICE_BYTES", 8 << 20)
    tracemalloc.start()
    try:
        profile_spec(spec, 0, 32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20, "32 candidates at once would take 80 MB"


@pytest.mark.parametrize(
    ("fields", "low", "high"),
    [
        ({"grid": [256, 256], "colors": 2, "burn_in": 2000}, 3.9, 4.0),
        ({"colors": 2}, 0.6, 0.7),
        ({"colors": 10}, 0.76, 1.0),
        ({"colors": 10}, -1.0, 0.01),
    ],
)
def test_a_band_beyond_the_alphabet_is_refused_by_arithmetic(fields: dict, low: float, high: float):
    with pytest.raises(BandError, match=r"cannot be met.*score from"):
        check_acceptance(parse_spec({**fields, "band": {"low": low, "high": high}}))


def test_a_normalized_band_above_noise_is_refused_by_arithmetic():
    band = {"score": "gzip-int32-v1-normalized", "low": 1.4, "high": 4.0}
    with pytest.raises(BandError, match="cannot be met"):
        check_acceptance(parse_spec({"band": band}))
    refuse_impossible(parse_spec({"band": {**band, "low": 0.99}}))


@pytest.mark.parametrize("colors", [2, 4, 10])
@pytest.mark.parametrize("side", [4, 12, 32])
def test_noise_stays_below_the_bound(colors: int, side: int):
    spec = parse_spec({"family": "iid", "grid": [side, side], "colors": colors, "init": "uniform", "seq_len": 64})
    ids = np.arange(64)
    scores = score_content(spec, family_of(spec).simulate(spec, 3, ids, ids * 0, "reference").content)
    for name, found in zip(("gzip-int32-v1", "gzip-int32-v1-normalized"), scores, strict=True):
        highest = float(found.max())
        refuse_impossible(spec.model_copy(update={"band": _band(name, highest)}))
    assert spec.score_tokens > BOUND_TOKENS or side < 32


def _band(name: str, low: float):
    return parse_spec({"band": {"score": name, "low": low, "high": 4.0}}).band
