"""Reward-model accuracy by hand, and whose prompts and labelers its interval answers for."""

import math

import numpy as np
import pytest

from heedful.errors import EvaluationError
from heedful.evaluation.reward_model import Scored, accuracy, baselines, count_pairs, log_loss
from heedful.records import Completion, Ranking


def test_pairs_by_hand():
    # Better first: (b, a), (b, c); a and c are tied. The scores have b over c and b level with a.
    assert count_pairs([2, 1, 2], [0.5, 0.5, -1.0]) == (1.5, 2)
    assert count_pairs([1, 1], [3.0, 4.0]) == (0.0, 0)


def test_accuracy_is_over_pairs_and_not_over_rankings():
    rows = [Scored("p", [1, 2, 3], [3.0, 2.0, 1.0]), Scored("q", [1, 2], [0.0, 1.0])]
    assert accuracy(rows).value == pytest.approx(3 / 4)


def test_log_loss_by_hand():
    # Margins 2 and -1: the mean of ln(1 + e^-2) and ln(1 + e^1).
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.e)) / 2
    assert log_loss(Scored("p", [1, 2, 2], [1.0, -1.0, 2.0])) == pytest.approx(expected)
    assert math.isnan(log_loss(Scored("p", [1, 1], [1.0, 2.0])))


def rankings_of(num_labelers, num_prompts=60):
    """One pair for every prompt and labeler: odd labelers always disagree with the scores."""
    return [
        Scored(f"p{prompt}", [1, 2] if labeler % 2 == 0 else [2, 1], [1.0, 0.0], "heldout", name)
        for prompt in range(num_prompts)
        for labeler, name in enumerate(f"l{i}" for i in range(num_labelers))
    ]


def test_the_interval_answers_for_other_labelers():
    # Half of eight labelers agree with the scores always, half never: prompts tell nothing, and
    # among labelers the share varies with standard error sqrt(1/4 / 8).
    found = accuracy(rankings_of(8))
    assert found.value == 0.5
    half = (found.high - found.low) / 2
    assert half == pytest.approx(1.96 * math.sqrt(0.25 / 8), rel=0.15)


def test_few_or_unknown_labelers_are_a_fixed_team():
    found = accuracy(rankings_of(4))
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
    unknown = [row._replace(labeler=None) for row in rankings_of(8)]
    assert (accuracy(unknown).low, accuracy(unknown).high) == (0.5, 0.5)


def test_no_untied_pair_is_an_error():
    with pytest.raises(EvaluationError, match="rank more prompts"):
        accuracy([Scored("p", [1, 1], [0.0, 1.0])])


def test_baselines_know_length_and_words():
    rng = np.random.default_rng(0)

    def ranking(number):
        texts = ["good " * int(rng.integers(1, 9)), "evil " * int(rng.integers(1, 9))]
        completions = tuple(Completion(f"{number}-{i}", text) for i, text in enumerate(texts))
        return Ranking(f"p{number}", "Say it.", completions, (1, 2), f"l{number % 6}")

    train, valid = ([ranking(number) for number in range(40)] for _ in range(2))
    found = baselines(train, valid)
    lengths = [[len(c.text) for c in row.completions] for row in valid]
    expected = np.mean([0.5 * (np.sign(a - b) + 1) for a, b in lengths])
    assert found["random"] == 0.5
    assert found["bag of words"]["value"] == 1.0
    assert found["longer is better"]["value"] == pytest.approx(expected)
