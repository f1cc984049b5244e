"""Win rates at equal length: statsmodels as the oracle, and judges whose taste is known."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from heedful.errors import EvaluationError
from heedful.evaluation.length_control import length_controlled
from heedful.evaluation.preference import win_rate
from heedful.records import Judgement


def study(num_prompts, theta, phi, seed, mean_longer=0.0):
    """Verdicts with known log-odds at equal length and a known taste for length, and lengths."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(100, 400, num_prompts).astype(float)
    model = baseline + rng.normal(mean_longer, 80, num_prompts)
    longer = model - baseline
    chance = 1 / (1 + np.exp(-theta - phi * np.tanh(longer / longer.std())))
    wins = rng.random(num_prompts) < chance
    judgements, lengths = [], {}
    for i, won in enumerate(wins):
        judgements.append(Judgement(f"p{i}", ("ppo", "sft"), (1, 2) if won else (2, 1), "ann"))
        lengths |= {(f"p{i}", "ppo"): model[i], (f"p{i}", "sft"): baseline[i]}
    return judgements, lengths, wins, longer


def test_it_is_the_intercept_of_a_logistic_regression():
    judgements, lengths, wins, longer = study(400, 0.4, 1.2, seed=0, mean_longer=60)
    columns = sm.add_constant(np.tanh(longer / longer.std()))
    oracle = sm.GLM(wins.astype(float), columns, family=sm.families.Binomial()).fit().params
    found = length_controlled(judgements, lengths, "ppo", "sft", num_samples=50)
    assert found.interval.value == pytest.approx(1 / (1 + math.exp(-oracle[0])), abs=1e-4)
    assert found.length_effect.value == pytest.approx(oracle[1], abs=1e-3)
    assert found.mean_difference == pytest.approx(longer.mean())
    assert found.num_judgements == 400


def test_a_judge_of_length_alone_leaves_one_half():
    judgements, lengths, wins, _ = study(1500, 0.0, 3.0, seed=1, mean_longer=70)
    raw = win_rate(judgements, "ppo", "sft", num_samples=200)
    found = length_controlled(judgements, lengths, "ppo", "sft", num_samples=200)
    assert raw.value == pytest.approx(wins.mean()) and raw.interval.low > 0.65
    assert found.interval.low < 0.5 < found.interval.high
    assert found.length_effect.low < 3.0 < found.length_effect.high


def test_answers_of_one_length_change_nothing():
    ranks = [(1, 2)] * 6 + [(2, 1)] * 2 + [(1, 1)] * 4
    judgements = [Judgement(f"p{i}", ("a", "b"), r, "ann") for i, r in enumerate(ranks)]
    lengths = {(f"p{i}", name): 50.0 for i in range(12) for name in "ab"}
    found = length_controlled(judgements, lengths, "a", "b", num_samples=200)
    assert found.interval.value == pytest.approx(8 / 12, abs=1e-3)
    assert found.length_effect.value == pytest.approx(0)


def test_one_side_that_always_wins_stays_finite():
    judgements = [Judgement(f"p{i}", ("a", "b"), (1, 2), "ann") for i in range(20)]
    lengths = {(f"p{i}", name): 10.0 + i * (name == "a") for i in range(20) for name in "ab"}
    found = length_controlled(judgements, lengths, "a", "b", num_samples=50).interval
    assert 0.9 < found.low <= found.value <= found.high <= 1


def test_errors_name_what_is_missing():
    judgements = [Judgement("p", ("a", "b"), (1, 2), "ann")]
    with pytest.raises(EvaluationError, match=r"'p' is judged.*answer of 'b' is not known"):
        length_controlled(judgements, {("p", "a"): 3.0}, "a", "b")
    with pytest.raises(EvaluationError, match="no judgement ranks both"):
        length_controlled(judgements, {}, "a", "c")
