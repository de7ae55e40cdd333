"""Samples are what the model's probabilities say, and the same however many are asked for; pass@k by enumeration."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import Llama, ModelConfig
from trainer.pass_at_k import pass_at_k
from trainer.sample import Cached, choose, draws, sample

VOCAB = 23


def make(**overrides: object) -> Llama:
    config = ModelConfig.model_validate({"depth": 2, "dim": 32, "heads": 4, **overrides})
    model = Llama(config.shape(VOCAB), 0)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform, as trained models are
    return model


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(case: tuple[int, int, int]) -> None:
    samples, correct, k = case
    subsets = list(combinations([True] * correct + [False] * (samples - correct), k))
    assert pass_at_k(samples, correct, k) == Fraction(sum(map(any, subsets)), len(subsets))


@given(st.integers(2, 6), st.integers(1, 6), st.fractions(0, 1, max_denominator=7))
def test_pass_at_k_is_unbiased(samples: int, k: int, chance: Fraction) -> None:
    """Its mean over everything that n samples, each correct with ``chance``, can be is 1 - (1 - chance)^k."""
    k = min(k, samples)
    mean = Fraction(0)
    for outcome in range(2**samples):
        correct = outcome.bit_count()
        mean += chance**correct * (1 - chance) ** (samples - correct) * pass_at_k(samples, correct, k)
    assert mean == 1 - (1 - chance) ** k


@pytest.mark.parametrize(("samples", "correct", "k"), [(5, 1, 6), (5, 6, 1), (5, 1, 0), (5, -1, 1)])
def test_what_cannot_be_is_refused(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {correct} correct among {samples}"):
        pass_at_k(samples, correct, k)


CACHED = [
    {},
    {"kv_heads": 2, "qk_norm": True},
    {"tied": True},
    {"learned_positions": 12},
    {"window_pattern": "S", "window": 3},
    {"layers": 3, "window_pattern": "LS", "window": 9},
    {"layers": 3, "value_embeddings": True, "kv_heads": 2},
    {"layers": 3, "window_pattern": "S", "window": 4, "repeat": {"first": 1, "last": 2, "times": 2}},
]


@pytest.mark.parametrize("overrides", CACHED)
def test_cached_logits_are_the_model_s(overrides: dict) -> None:
    model = make(**overrides)
    tokens_BT = torch.randint(0, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
    cached = Cached(model, 12)
    found = [cached.logits(tokens_BT[:, :5])] + [cached.logits(tokens_BT[:, at : at + 1]) for at in range(5, 12)]
    torch.testing.assert_close(torch.stack(found, 1), model.logits(tokens_BT)[:, 4:], rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**62), st.sampled_from([0.3, 1.0, 2.0]))
def test_sample_i_is_the_same_whatever_their_number(count: int, seed: int, temperature: float) -> None:
    options = {"new_tokens": 6, "temperature": temperature, "seed": seed, "vocab_size": VOCAB, "end": 0}
    many = sample(MODEL, [3, 1], count=20, **options)
    assert sample(MODEL, [3, 1], count=count, **options) == many[:count]
    assert sample(MODEL, [3, 1], count=20, **(options | {"new_tokens": 3})) == [each[:3] for each in many]


MODEL = make()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_frequencies_are_the_probabilities(temperature: float) -> None:
    """The first token of 4,000 samples: within 5 standard deviations for every token of the vocabulary."""
    found = sample(
        MODEL, [3, 1], count=4000, new_tokens=1, temperature=temperature, seed=1, vocab_size=VOCAB, end=VOCAB
    )
    counts_V = np.bincount([tokens[0] for tokens in found], minlength=VOCAB)
    with torch.no_grad():
        logits_V = MODEL.logits(torch.tensor([[3, 1]]))[0, -1].double()
    expected_V = torch.softmax(logits_V / temperature, 0).numpy() * 4000
    assert (np.abs(counts_V - expected_V) <= 5 * np.sqrt(expected_V) + 1).all()
    assert (counts_V > 0).sum() > 3


def test_temperature_zero_is_greedy_and_ends_are_kept_out() -> None:
    options = {"new_tokens": 5, "temperature": 0.0, "seed": 0, "vocab_size": VOCAB}
    [greedy] = sample(MODEL, [3, 1], count=1, end=VOCAB, **options)
    sequence = [3, 1]
    for token in greedy:
        with torch.no_grad():
            assert token == MODEL.logits(torch.tensor([sequence]))[0, -1].argmax()
        sequence.append(token)
    at = greedy.index(greedy[2])
    assert sample(MODEL, [3, 1], count=1, end=greedy[2], **options) == [greedy[:at]]
    assert sample(MODEL, [3, 1], count=1, end=VOCAB, finished=lambda t: len(t) == 2, **options) == [greedy[:2]]


def test_no_uniform_number_falls_between_tokens() -> None:
    logits_BV = np.array([[0.0, -np.inf, 1.0, -np.inf]] * 3)
    below_one = np.nextafter(1.0, 0.0)
    assert choose(logits_BV, np.array([0.0, 0.5, below_one]), 1.0).tolist() == [0, 2, 2]
    assert draws(0, [1], 0, 4).tolist() != draws(0, [1], 1, 4).tolist()
