"""Each further family against what defines it."""

import itertools

import numpy as np
import pytest

from generator import SpecError, decode_tokens, generate_batch, parse_spec
from generator.errors import RangeError
from generator.family import FAMILIES
from generator.lattice.weights import provide
from tests.generator.lattice_networks import network_file

BASE = {"family": "nca", "grid": [6, 6], "colors": 3, "hidden": 8, "seq_len": 150, "band": {"low": 0.15, "high": 0.9}}
SPECS = {
    "nca": BASE,
    "dyck": {"family": "dyck", "types": 5, "depth": 4, "seq_len": 200},
    "shuffle-dyck": {"family": "shuffle-dyck", "types": 5, "depth": 6, "seq_len": 200, "open_probability": 0.6},
    "eca": {"family": "eca", "grid": [24], "patch": 4, "seq_len": 100},
    "shuffled": {"family": "shuffled", "base": BASE},
    "iid": {"family": "iid", "grid": [6, 6], "colors": 3, "seq_len": 150},
    "lattice": {"family": "lattice", "weights": provide(network_file(0)), "grid": [4, 4, 4], "seq_len": 150},
    "linear-rnn": {"family": "linear-rnn", "vocabulary": 20, "hidden": 5, "seq_len": 60, "burn_in": 3},
    "procedural": {"family": "procedural", "task": "stack", "vocabulary": 20, "length": 8, "seq_len": 70},
    "markov": {"family": "markov", "vocabulary": 20, "states": 5, "seq_len": 50},
    "needle": {"family": "needle", "pairs": 7, "markers": 9, "values": 12},
    "arithmetic": {"family": "arithmetic", "task": "multiplication", "digits": 4, "seq_len": 50},
    "linear-function": {"family": "linear-function", "seq_len": 21},
}


def rows(spec, count=40, **options):
    table = generate_batch(parse_spec(spec), 4, 0, count, **options)
    return np.frombuffer(b"".join(table["tokens"].to_pylist()), dtype="<u2").reshape(count, -1)


def test_every_family_is_here():
    assert list(SPECS) == list(FAMILIES)


@pytest.mark.parametrize("name", SPECS)
def test_backends_batches_and_json_agree(name):
    spec = parse_spec(SPECS[name])
    assert parse_spec(spec.model_dump(mode="json")) == spec
    whole = generate_batch(spec, 4, 0, 40)
    assert whole["tokens"].type.byte_width == 2 * spec.seq_len
    assert generate_batch(spec, 4, 7, 20, backend="reference").equals(whole.slice(7, 20).combine_chunks())
    assert np.frombuffer(b"".join(whole["tokens"].to_pylist()), dtype="<u2").max() < spec.vocab_size
    assert len(set(whole["tokens"].to_pylist())) == 40


def test_dyck_nests_within_its_depth():
    heights = []
    for row in rows(SPECS["dyck"]):
        stack = []
        for token in row:
            if token < 5:
                stack.append(token)
            else:
                assert stack.pop() == token - 5
            heights.append(len(stack))
    assert max(heights) == 4
    assert min(heights) == 0


def test_shuffle_dyck_nests_each_type_but_interleaves_them():
    crossed = False
    for row in rows(SPECS["shuffle-dyck"]):
        counts, last = np.zeros(5, int), []
        for token in row:
            if token < 5:
                counts[token] += 1
                last.append(token)
            else:
                counts[token - 5] -= 1
                crossed |= last.pop() != token - 5
            assert counts.min() >= 0
            assert counts.sum() <= 6
    assert crossed


def test_eca_follows_its_rule_number():
    for rule in (30, 110, 184):
        spec = parse_spec({**SPECS["eca"], "rule": rule})
        for row in rows({**SPECS["eca"], "rule": rule}, 10):
            frames = decode_tokens(spec, row)
            for now, after in itertools.pairwise(frames):
                expected = [rule >> (4 * now[x - 1] + 2 * now[x] + now[(x + 1) % 24]) & 1 for x in range(24)]
                assert after.tolist() == expected


def test_shuffled_keeps_unigrams_and_delimiters_of_the_very_same_sequences():
    base, shuffled = rows(BASE), rows(SPECS["shuffled"])
    assert (np.sort(base, axis=1) == np.sort(shuffled, axis=1)).all()
    assert ((base >= 81) == (shuffled >= 81)).all()
    assert (base != shuffled).mean() > 0.2


def test_shuffled_accepts_what_its_base_accepts():
    spec = parse_spec(SPECS["shuffled"])
    assert generate_batch(spec, 4, 0, 30)["attempt"].equals(generate_batch(parse_spec(BASE), 4, 0, 30)["attempt"])
    assert generate_batch(spec, 4, 0, 30)["score"].to_numpy().mean() > 0.2


def test_iid_cells_are_independent_of_the_frame_before():
    spec = parse_spec({**SPECS["iid"], "init": "uniform"})
    tables = generate_batch(spec, 4, 0, 40)
    frames = np.stack([decode_tokens(spec, np.frombuffer(row, "<u2")) for row in tables["tokens"].to_pylist()])
    assert (frames[:, 1:] == frames[:, :-1]).mean() == pytest.approx(1 / 3, abs=0.01)
    assert tables["score_normalized"].to_numpy().mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"family": "shuffled", "base": {**BASE, "colors": 240}}, ["base", "colors", "240^4 + 2"]),
        ({"family": "shuffled", "base": SPECS["shuffled"]}, ["base", "itself shuffled"]),
        ({"family": "shuffled", "base": BASE, "seq_len": 7}, ["seq_len", "7", "150"]),
        ({"family": "shuffled"}, ["base"]),
        ({"family": "eca", "rule": 256}, ["rule", "256", "255"]),
        ({"family": "eca", "colors": 3}, ["colors", "3", "2"]),
        ({"family": "dyck", "open_probability": 1}, ["open_probability", "less than 1"]),
    ],
)
def test_mistakes_are_one_line(fields, words):
    with pytest.raises(SpecError) as caught:
        parse_spec(fields)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_family_without_frames_says_so():
    with pytest.raises(RangeError, match="'dyck' has no frames"):
        decode_tokens(parse_spec(SPECS["dyck"]), np.zeros(10))
