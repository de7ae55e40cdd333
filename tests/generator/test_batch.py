"""generate_batch is a pure function of (spec, seed, id), keeps to its band, and refuses what cannot be."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator import (
    BackendError,
    BandError,
    RangeError,
    accept,
    check_acceptance,
    generate_batch,
    measure_acceptance,
    parse_spec,
    pipeline,
)
from generator.families import nca

SMALL = parse_spec(
    {
        "grid": [6, 8],
        "colors": 4,
        "embed": 2,
        "hidden": 8,
        "burn_in": 3,
        "seq_len": 120,
        "band": {"low": 0.2, "high": 0.9},
    }
)
SHARED = SMALL.model_copy(update={"sequences_per_rule": 3})


@pytest.mark.parametrize("spec", [SMALL, SHARED], ids=["alone", "shared-rule"])
def test_table_layout_and_scores(spec):
    table = generate_batch(spec, 3, 10, 40)
    assert table.schema.names == ["sequence_id", "tokens", "attempt", "score", "score_normalized"]
    assert table.schema.types == [pa.int64(), pa.binary(240), pa.int32(), pa.float64(), pa.float64()]
    assert not any(field.nullable for field in table.schema)
    assert table["sequence_id"].to_pylist() == list(range(10, 50))
    scores = table["score"].to_numpy()
    assert ((scores >= 0.2) & (scores <= 0.9)).all()
    tokens = np.frombuffer(b"".join(table["tokens"].to_pylist()), dtype="<u2")
    assert tokens.max() == spec.vocab_size - 1


@pytest.mark.parametrize("spec", [SMALL, SHARED], ids=["alone", "shared-rule"])
def test_id_and_attempt_alone_make_the_sequence_again(spec):
    table = generate_batch(spec, 3, 0, 24)
    addresses = table["sequence_id"].to_numpy(), table["attempt"].to_numpy()
    tokens = nca.simulate(spec, 3, *addresses, "reference").tokens
    assert [row.astype("<u2").tobytes() for row in tokens] == table["tokens"].to_pylist()


@pytest.mark.parametrize("spec", [SMALL, SHARED], ids=["alone", "shared-rule"])
@settings(max_examples=12, deadline=None)
@given(first=st.integers(0, 90), count=st.integers(0, 30), threads=st.sampled_from([1, 3]), slow=st.booleans())
def test_any_split_backend_and_thread_count_gives_the_same_rows(spec, first, count, threads, slow):
    whole = generate_batch(spec, 3, 0, 120)
    part = generate_batch(spec, 3, first, count, threads=threads, backend="reference" if slow else "numba")
    assert part.equals(whole.slice(first, count).combine_chunks())


def test_runs_longer_than_one_thread_task_join_in_order():
    whole = generate_batch(SHARED, 3, 0, 400, threads=2)
    assert generate_batch(SHARED, 3, 100, 250, threads=1).equals(whole.slice(100, 250).combine_chunks())


def test_scoring_beside_a_device_accepts_the_same_candidates(monkeypatch):
    monkeypatch.setattr(pipeline, "DEVICE_BATCH", 50)
    monkeypatch.setattr(pipeline, "SCORE_SLICE", 8)
    simulate = partial(nca.simulate, SMALL, 3, backend="numba")
    ids = np.arange(10, 310)
    beside, plain = pipeline.search_beside(SMALL, simulate, ids, 3), accept.search(SMALL, simulate, ids)
    for name in ("tokens", "attempts", "ratio", "normalized"):
        assert (getattr(beside, name) == getattr(plain, name)).all()


def test_large_seeds_and_ids_are_distinct_addresses():
    spec = SMALL.model_copy(update={"band": None})
    top = (1 << 63) - 1
    tables = [generate_batch(spec, seed, first, 1) for seed in (0, top) for first in (0, 1 << 32, top - 1)]
    assert len({table["tokens"][0].as_py() for table in tables}) == 6
    again = generate_batch(spec, top, top - 1, 1, backend="reference")
    assert again.equals(tables[-1])


def test_a_band_that_rules_hardly_meet_is_refused_with_the_measure():
    spec = parse_spec({"band": {"low": 0.7, "high": 0.74}})
    for act in (lambda: check_acceptance(spec), lambda: generate_batch(spec, 0, 0, 4)):
        with pytest.raises(BandError, match=r"measured acceptance 0\.00000 \(0 of 4096 candidates\)"):
            act()


def test_more_can_be_asked_of_a_band():
    spec = parse_spec({"band": {"low": 0.5, "high": 1.0}})
    check_acceptance(spec, least=0.3)
    with pytest.raises(BandError, match=r"needed is at least 0\.9"):
        check_acceptance(spec, least=0.9)


def test_measured_acceptance_is_the_published_one():
    spec = parse_spec({"compat": True, "band": {"low": 0.5, "high": 1.0}})
    assert measure_acceptance(spec).rate == pytest.approx(0.454, abs=0.025)


def test_bad_arguments_are_named():
    with pytest.raises(RangeError, match="seed: -1"):
        generate_batch(SMALL, -1, 0, 1)
    with pytest.raises(RangeError, match="first -2"):
        generate_batch(SMALL, 0, -2, 1)
    with pytest.raises(RangeError, match="threads: 0"):
        generate_batch(SMALL, 0, 0, 1, threads=0)
    with pytest.raises(BackendError, match="cuda-magic"):
        generate_batch(SMALL, 0, 0, 1, backend="cuda-magic")
