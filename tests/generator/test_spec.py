"""Specs: defaults, digests, and one line for every mistake."""

import hashlib
import json

import pytest

from generator import SpecError, parse_spec


def test_the_default_spec_is_the_papers():
    spec = parse_spec({})
    assert (spec.family, spec.grid, spec.colors, spec.vocab_size, spec.frame_tokens) == (
        "nca",
        (12, 12),
        10,
        10_002,
        38,
    )
    assert spec.frames == 27


def test_digest_is_of_the_stored_json_and_survives_a_round_trip():
    spec = parse_spec({"grid": [8, 8], "colors": 4, "band": {"low": 0.1, "high": 1}})
    stored = spec.model_dump(mode="json")
    text = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    assert spec.digest == hashlib.sha256(text.encode()).hexdigest()
    assert parse_spec(json.loads(text)) == spec
    assert parse_spec({"temperature": 0}).digest == parse_spec({}).digest


def test_compat_true_is_the_published_code():
    assert parse_spec({"compat": True}) == parse_spec({"compat": {"channel_wrap": True, "init": "categorical"}})


@pytest.mark.parametrize(
    ("colors", "bits", "advised"), [(15, 16, False), (16, 32, False), (22, 32, False), (23, 32, True)]
)
def test_a_vocabulary_chooses_its_width_and_a_large_one_is_advised_against(colors, bits, advised):
    spec = parse_spec({"colors": colors})
    assert spec.token_dtype.itemsize * 8 == bits
    assert (spec.advice is not None) == advised
    if advised:
        assert "vocabulary of 279,843 tokens" in spec.advice
        assert "0.5 GiB each" in spec.advice
        assert "keep it under 262,144" in spec.advice


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"colours": 10}, ["colours", "unknown field", "10"]),
        ({"grid": [13, 12]}, ["grid", "13", "patch 2"]),
        ({"colors": 220}, ["colors", "220^4 + 2", "2147483648"]),
        ({"band": {"low": 0.6, "high": 0.5}}, ["band", "0.6", "empty"]),
        ({"band": {"low": 0.6, "high": 0.7, "score": "gzip"}}, ["band.score", "gzip-int32-v1"]),
        ({"hidden": 0}, ["hidden", "0", "greater than or equal to 1"]),
        ({"temperature": -1}, ["temperature", "-1"]),
        ({"temperature": float("nan")}, ["temperature"]),
        ({"temperature": 90.0}, ["temperature", "90.0", "4194304"]),
        ({"family": "life"}, ["family", "life", "nca"]),
        ({"grid": [12]}, ["grid"]),
        ({"burn_in": 10_000, "grid": [256, 256], "colors": 2, "patch": 2}, ["burn_in", "cell updates"]),
        ({"colors": 1, "hidden": 999}, ["colors", "hidden", "; "]),
    ],
)
def test_each_mistake_is_one_line_that_names_it(fields, words):
    with pytest.raises(SpecError) as caught:
        parse_spec(fields)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
