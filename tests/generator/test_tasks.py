"""Tasks and recurrent networks against what defines them: every answer is worked out again from the tokens shown."""

import math
from collections import Counter

import numpy as np
import pytest

from generator import SpecError, generate_batch, parse_spec
from generator.families.linear_rnn import exp_table, measure_growth, square_roots
from generator.families.procedural import TASKS


def rows(fields, count=60, seed=4):
    table = generate_batch(parse_spec(fields), seed, 0, count)
    return np.frombuffer(b"".join(table["tokens"].to_pylist()), dtype="<u2").reshape(count, -1)


def procedural(task, **fields):
    return {"family": "procedural", "task": task, "vocabulary": 20, "symbols": 6, "length": 7, **fields}


def expected(task, shown):
    """The output of a task, from the tokens before the bar (`pop` is 23, `,` is 22)."""
    if task == "stack":
        stack = []
        for token in shown:
            if token == 23:
                stack.pop()
            else:
                stack.append(token)
        return stack
    if task == "delete":
        assert shown[-2] == 22
        assert shown[-1] in shown[:-2]
        return [item for item in shown[:-2] if item != shown[-1]]
    if task == "union":
        assert shown.index(22) == 3
        shown = [item for item in shown if item != 22]
    distinct = list(dict.fromkeys(shown))
    return {
        "identity": shown,
        "reverse": shown[::-1],
        "sort": sorted(shown),
        "set": distinct,
        "union": distinct,
    }[task]


@pytest.mark.parametrize("task", TASKS)
def test_every_output_is_what_the_task_makes_of_its_input(task):
    spec = parse_spec(procedural(task, seq_len=60))
    size = spec.episode_tokens
    popped = 0
    for row in rows(procedural(task, seq_len=60)):
        items = set()
        for start in range(0, 60 - size + 1, size):
            episode = row[start : start + size].tolist()
            bar = episode.index(20)
            assert bar == spec.input_tokens
            output = expected(task, episode[:bar])
            assert episode[bar + 1 :] == output + [21] * (size - bar - 1 - len(output))
            assert spec.answer_mask()[start : start + size].tolist() == [bar < at < size - 1 for at in range(size)]
            items |= {token for token in episode if token < 20}
            popped += episode.count(23)
        assert len(items) <= 6
    assert (popped > 0) == (task == "stack")


def test_a_chain_follows_its_own_successors_as_often_as_it_says():
    fields = {"family": "markov", "vocabulary": 40, "states": 5, "seq_len": 400, "follow_probability": 0.8}
    followed = steps = 0
    for row in rows(fields):
        assert len(set(row.tolist())) <= 5
        for state in set(row[:-1].tolist()):
            after = Counter(row[1:][row[:-1] == state].tolist())
            followed += max(after.values())
            steps += sum(after.values())
    assert followed / steps == pytest.approx(0.8 + 0.2 / 5, abs=0.01)
    assert np.flatnonzero(parse_spec(fields).answer_mask()).tolist() == list(range(16, 400))


def test_a_needle_is_the_value_that_its_marker_had():
    fields = {"family": "needle", "pairs": 6, "markers": 9, "values": 12}
    asked = Counter()
    for row in rows(fields, 600):
        markers, values = row[0:12:2].tolist(), row[1:12:2].tolist()
        assert len(set(markers)) == 6
        assert max(markers) < 9 <= min(values)
        asked[markers.index(row[12])] += 1
        assert row[13] == values[markers.index(row[12])]
    assert min(asked.values()) > 60
    assert np.flatnonzero(parse_spec(fields).answer_mask()).tolist() == [13]


@pytest.mark.parametrize(
    "fields", [{"task": "addition", "digits": 5}, {"task": "multiplication", "digits": 3, "base": 7, "seq_len": 70}]
)
def test_every_sum_and_product_is_right_lowest_digit_first(fields):
    spec = parse_spec({"family": "arithmetic", **fields})
    base, digits, size = spec.base, spec.digits, spec.problem_tokens

    def number(text):
        assert all(digit < base for digit in text)
        return sum(digit * base**place for place, digit in enumerate(text))

    for row in rows({"family": "arithmetic", **fields}):
        for start in range(0, spec.seq_len - size + 1, size):
            problem = row[start : start + size].tolist()
            assert (problem[digits], problem[2 * digits + 1]) == (base, base + 1)
            a, b, c = number(problem[:digits]), number(problem[digits + 1 : 2 * digits + 1]), problem[2 * digits + 2 :]
            assert number(c) == (a + b if spec.task == "addition" else a * b)
            asked = spec.answer_mask()[start : start + size]
            assert np.flatnonzero(asked).tolist() == list(range(2 * digits + 2, size))


def test_a_linear_function_is_one_function_a_sequence():
    spec = parse_spec({"family": "linear-function", "modulus": 13, "seq_len": 30})
    slopes = set()
    for row in rows({"family": "linear-function", "modulus": 13, "seq_len": 30}):
        x, y = row[0::2].astype(int), row[1::2].astype(int) - 13
        fitting = [(a, b) for a in range(1, 13) for b in range(13) if ((a * x + b) % 13 == y).all()]
        assert len(fitting) == 1 or len(set(x.tolist())) == 1
        slopes.add(fitting[0][0])
    assert len(slopes) > 6
    assert np.flatnonzero(spec.answer_mask()).tolist() == list(range(7, 30, 2))


def test_integer_roots_and_exponentials_are_exact():
    values = np.array([0, 1, 2, 3, 4, 2**52 - 1, 2**52, (2**31 - 1) ** 2 - 1, (2**31 - 1) ** 2, 2**62 - 1])
    assert square_roots(values).tolist() == [math.isqrt(value) for value in values.tolist()]
    table = exp_table()
    assert table[-1] == 0
    assert np.abs(table - 65536 * np.exp(-np.arange(len(table)) / 64)).max() <= 1.01


def test_the_measured_radius_is_the_matrix_own():
    rng = np.random.default_rng(0)
    w_GHH = rng.integers(-62, 63, size=(40, 24, 24))
    true = np.abs(np.linalg.eigvals(w_GHH.astype(float))).max(axis=1)
    # The start still shows in 32 steps where eigenvalues are close; a twentieth is what that leaves.
    assert np.abs(measure_growth(w_GHH) / 65536 / true - 1).max() < 0.1
    assert np.abs(measure_growth(w_GHH) / 65536 / true - 1).mean() < 0.03
    assert measure_growth(np.zeros((1, 3, 3), np.int64)).tolist() == [0]


def test_a_networks_tokens_follow_the_float_formula():
    """Next-token frequencies of one network, over many sequences, against softmax(C h / temperature) in floats."""
    fields = {"family": "linear-rnn", "vocabulary": 5, "hidden": 8, "seq_len": 2, "sequences_per_network": 4000}
    found = rows(fields, 4000)
    from generator import philox
    from generator.tables import WEIGHT_Q

    stream = philox.stream_bytes(4, philox.RULE, np.array([0]), np.array([0]), parse_spec(fields).weights)
    q = WEIGHT_Q[stream[0]].astype(float) / 31.5
    w, a, c = q[:64].reshape(8, 8), q[64:104].reshape(5, 8), q[104:].reshape(5, 8) / math.sqrt(8)
    # The radius that was measured, not the true one, is what W is divided by.
    w *= 0.9 / (measure_growth(WEIGHT_Q[stream[:, :64]].astype(np.int64).reshape(1, 8, 8))[0] / 65536 / 31.5)

    def softmax(logits):
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    joint = np.zeros((5, 5))
    for given in range(5):
        first = softmax(c @ a[given]) / 5
        for token in range(5):
            joint[token] += first[token] * softmax(c @ (a[token] + w @ a[given]))
    seen = np.zeros((5, 5))
    np.add.at(seen, (found[:, 0], found[:, 1]), 1 / 4000)
    assert np.abs(seen - joint).max() < 0.015


def test_a_larger_temperature_is_nearer_to_noise():
    spread = []
    for heat in (0.2, 1.0, 100.0):
        found = rows({"family": "linear-rnn", "vocabulary": 16, "seq_len": 400, "temperature": heat})
        spread.append(np.std([np.bincount(row, minlength=16) for row in found]))
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] == pytest.approx(math.sqrt(400 / 16 * 15 / 16), rel=0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"family": "markov", "states": 200}, ["states", "200", "vocabulary of 100"]),
        ({"family": "markov", "seq_len": 16}, ["answers_from", "16", "lower it"]),
        ({"family": "needle", "pairs": 60}, ["pairs", "60", "50"]),
        ({"family": "needle", "seq_len": 40}, ["seq_len", "40", "15"]),
        ({"family": "procedural", "task": "shuffle"}, ["task", "'shuffle'", "'identity'"]),
        ({"family": "procedural"}, ["task"]),
        ({"family": "procedural", "task": "sort", "seq_len": 17}, ["seq_len", "17", "token 17"]),
        ({"family": "procedural", "task": "sort", "symbols": 101}, ["symbols", "101", "100"]),
        ({"family": "arithmetic", "task": "addition", "digits": 5, "seq_len": 12}, ["seq_len", "12", "token 13"]),
        ({"family": "arithmetic", "task": "multiplication", "base": 64, "digits": 6}, ["digits", "6", "2^62"]),
        ({"family": "linear-function", "seq_len": 7}, ["answers_from", "3", "7"]),
        ({"family": "linear-rnn", "radius": 1.0}, ["radius", "less than 1"]),
        ({"family": "linear-rnn", "hidden": 65}, ["hidden", "65", "64"]),
    ],
)
def test_mistakes_are_one_line(fields, words):
    with pytest.raises(SpecError) as caught:
        parse_spec(fields)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
