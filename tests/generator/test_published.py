"""Parity with the published generator: its network, tokens and scores exactly, its score distribution closely."""

import json
from pathlib import Path

import numpy as np
import pytest

from generator import generate_batch, load_preset, parse_spec
from generator.families import nca
from generator.nca.reference import step_logits
from generator.nca.rules import draw_cells, draw_rules, fold_tables
from generator.score import gzip_sizes, score_content
from generator.tokens import decode_tokens, encode_frames, frames_to_tokens, unigram_entropy_nats
from tests.generator.float_rule import float_weights, logits

GOLDEN = Path(__file__).parents[1] / "golden"
PAPER = parse_spec({"compat": True})


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "published_nca.npz") as data:
        return dict(data)


def weights(published, rule):
    conv = published["conv0_kernel"][rule].reshape(9, 12, 4)
    return conv, published["conv1_kernel"][rule, 0, 0], published["conv2_kernel"][rule, 0, 0]


def test_float_network_gives_the_published_logits(published):
    for rule in range(32):
        for t, name in ((0, "logits_t0"), (10, "logits_t10")):
            found = logits(*weights(published, rule), published["states"][rule, t], channel_wrap=True)
            np.testing.assert_allclose(found, published[name][rule], atol=1e-5)


def test_float_network_gives_the_published_argmax_everywhere(published):
    for rule in range(32):
        for t in range(36):
            found = logits(*weights(published, rule), published["states"][rule, t], channel_wrap=True).argmax(-1)
            assert (found == published["argmax_next"][rule, t]).all()


def test_free_run_follows_the_published_deterministic_trajectory(published):
    for rule in range(32):
        cells = published["states_argmax"][rule, 0]
        for t in range(1, 37):
            cells = logits(*weights(published, rule), cells, channel_wrap=True).argmax(-1)
            assert (cells == published["states_argmax"][rule, t]).all()


def test_tokens_are_the_published_tokens(published):
    tokens, content = frames_to_tokens(PAPER, published["states"][:, 10:])
    assert (tokens == published["tokens"]).all()
    longer = PAPER.model_copy(update={"seq_len": 1026})
    assert (frames_to_tokens(longer, published["states"][:, 10:])[0] == published["tokens_full"]).all()
    assert (content == encode_frames(PAPER, published["states"][:, 10:20]).reshape(32, 360)).all()


def test_decode_returns_the_frames(published):
    for rule in range(32):
        frames = decode_tokens(PAPER, published["tokens"][rule])
        assert (frames == published["states"][rule, 10:36]).all()


def test_scores_are_the_published_scores(published):
    for states, sizes in (("states", "gzip_size"), ("states_argmax", "gzip_size_argmax")):
        content = encode_frames(PAPER, published[states][:, 10:20]).reshape(32, 360)
        assert (gzip_sizes(content) == published[sizes]).all()
    content = encode_frames(PAPER, published["states"][:, 10:20]).reshape(32, 360)
    assert (score_content(PAPER, content)[0].astype(np.float32) == published["gzip_ratio"]).all()


def test_a_lattice_step_is_the_float_step_but_for_near_ties():
    ids, attempts = np.arange(24), np.zeros(24, np.int64)
    rules = draw_rules(PAPER, 5, ids, attempts)
    cells = draw_cells(PAPER, 5, ids, attempts).reshape(-1, 12, 12)
    lattice = step_logits(PAPER, fold_tables(PAPER, rules), rules.second_NHC, cells).argmax(-1)
    floats = np.stack([logits(*float_weights(PAPER, rules, n), cells[n], channel_wrap=True).argmax(-1) for n in ids])
    assert (lattice == floats).mean() > 0.985


def test_score_distribution_over_20000_rules_is_the_published_one():
    with open(GOLDEN / "published_scores.json") as file:
        published_scores = json.load(file)
    scores = []
    for first in range(0, 20_480, 1024):
        ids = np.arange(first, first + 1024)
        content = nca.simulate(PAPER, 1, ids, np.zeros_like(ids), "numba").content
        scores.append(gzip_sizes(content) / 1440)
    shares = np.histogram(np.concatenate(scores), bins=published_scores["bin_edges"])[0] / 20_480
    gap = np.abs(np.cumsum(shares) - np.cumsum(published_scores["counts"]) / published_scores["n_rules"])
    assert gap.max() <= 0.02


def test_change_rates_are_the_published_ones():
    with open(GOLDEN / "published_scores.json") as file:
        published_rates = json.load(file)["mean_cell_change_rate"]
    rates, scores = [], []
    longer = PAPER.model_copy(update={"seq_len": 1026})
    for first in range(0, 6144, 1024):
        ids = np.arange(first, first + 1024)
        made = nca.simulate(longer, 1, ids, np.zeros_like(ids), "numba")
        frames = np.stack([decode_tokens(longer, row) for row in made.tokens])
        rates.append((frames[:, 1:] != frames[:, :-1]).mean(axis=(1, 2, 3)))
        scores.append(gzip_sizes(made.content) / 1440)
    rate, score = np.concatenate(rates), np.concatenate(scores)
    assert rate.mean() == pytest.approx(published_rates["all"], rel=0.02)
    assert rate[score >= 0.5].mean() == pytest.approx(published_rates["0.5-1.0"], rel=0.02)


def test_unigram_entropy_of_accepted_sequences_is_the_published_one():
    table = generate_batch(load_preset("paper"), 0, 0, 1024)
    tokens = np.frombuffer(b"".join(table["tokens"].to_pylist()), dtype="<u2").reshape(1024, -1)
    assert unigram_entropy_nats(tokens) == pytest.approx(5.59, rel=0.02)


def test_unigram_entropy_and_change_rate_are_those_of_the_float_network_of_the_same_rules():
    ids, attempts = np.arange(192), np.zeros(192, np.int64)
    rules = draw_rules(PAPER, 3, ids, attempts)
    start = draw_cells(PAPER, 3, ids, attempts).reshape(-1, 12, 12)
    tokens = nca.simulate(PAPER, 3, ids, attempts, "numba").tokens
    lattice = np.stack([decode_tokens(PAPER, row) for row in tokens])
    floats = np.empty((192, 27, 12, 12), np.uint8)
    for n in range(192):
        cells, network = start[n], float_weights(PAPER, rules, n)
        for t in range(37):
            if t >= 10:
                floats[n, t - 10] = cells
            cells = logits(*network, cells, channel_wrap=True).argmax(-1)
    float_tokens, _ = frames_to_tokens(PAPER, floats)
    assert unigram_entropy_nats(tokens) == pytest.approx(unigram_entropy_nats(float_tokens), rel=0.02)
    change = [(f[:, 1:26] != f[:, :25]).mean() for f in (lattice, floats)]
    assert change[0] == pytest.approx(change[1], rel=0.02)
