"""Bradley-Terry strengths: hand cases, scipy as the oracle, and the paper's own figures."""

import math

import numpy as np
import pytest
from scipy import optimize

from heedful.errors import EvaluationError
from heedful.evaluation.bradley_terry import bradley_terry, fit, fit_strengths, implied_win_rate
from heedful.records import Judgement


def duels(model, baseline, num_wins, num_losses, num_ties=0):
    outcomes = [(1, 2)] * num_wins + [(2, 1)] * num_losses + [(1, 1)] * num_ties
    return [
        Judgement(f"{model}/{baseline}/{i}", (model, baseline), ranks, "ann")
        for i, ranks in enumerate(outcomes)
    ]


def simulated(strengths, num_prompts, num_labelers, seed):
    """Rankings by Gumbel utilities: pairwise they follow Bradley-Terry with these strengths."""
    rng = np.random.default_rng(seed)
    found = []
    for prompt in range(num_prompts):
        for labeler in rng.choice(num_labelers, size=2, replace=False):
            utility = {name: s + rng.gumbel() for name, s in strengths.items()}
            order = sorted(utility, key=utility.get, reverse=True)
            ranks = tuple(order.index(name) + 1 for name in strengths)
            found.append(Judgement(f"p{prompt}", tuple(strengths), ranks, f"labeler {labeler}"))
    return found


def test_bradley_terry_of_two_models_is_the_log_odds():
    strengths = bradley_terry(duels("a", "b", 80, 20))
    assert list(strengths) == ["a", "b"]
    assert strengths["a"].value == pytest.approx(math.log(80 / 20) / 2, abs=1e-3)
    assert strengths["a"].value + strengths["b"].value == pytest.approx(0, abs=1e-12)
    # The interval of a difference of log-odds: 1 / sqrt(n p (1 - p)), halved by the mean 0.
    expected = 1.96 / math.sqrt(100 * 0.8 * 0.2) / 2
    assert strengths["a"].high - strengths["a"].value == pytest.approx(expected, rel=0.3)


def test_bradley_terry_matches_scipy():
    wins = np.random.default_rng(0).integers(1, 30, size=(6, 6)).astype(float)
    np.fill_diagonal(wins, 0)

    def loss(s):
        return (wins * np.logaddexp(0, s[None, :] - s[:, None])).sum() + 1e-3 * s.sum() ** 2

    oracle = optimize.minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).x
    assert fit_strengths(wins[None], prior=0.0)[0] == pytest.approx(
        oracle - oracle.mean(), abs=1e-5
    )


def test_bradley_terry_finds_known_strengths():
    truth = {"base": -1.2, "sft": -0.1, "ppo": 0.5, "ptx": 0.8}
    found = bradley_terry(simulated(truth, 400, 10, seed=1), num_samples=300)
    for name, strength in truth.items():
        assert found[name].value == pytest.approx(strength, abs=0.2)
        assert found[name].low - 0.1 <= strength <= found[name].high + 0.1
    assert list(found) == ["ptx", "ppo", "sft", "base"]


def test_bradley_terry_survives_models_that_always_win_or_never_meet():
    found = bradley_terry(duels("a", "b", 5000, 0) + duels("c", "d", 3, 3), num_samples=50)
    assert found["a"].value > found["b"].value + 5
    assert found["c"].value == pytest.approx(found["d"].value, abs=1e-6)
    assert all(math.isfinite(x) for i in found.values() for x in (i.value, i.low, i.high))


def test_fits_settle_on_one_sided_tables():
    rng = np.random.default_rng(4)
    wins = rng.integers(0, 2000, size=(200, 7, 7)) * (rng.random((200, 7, 7)) < 0.25)
    strengths = fit_strengths(wins.astype(float))
    won = wins + 0.01 * (1 - np.eye(7))
    chance = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
    slope = (won - (won + won.swapaxes(1, 2)) * chance).sum(axis=2)
    assert np.abs(slope).max() < 1e-6


def test_published_figures_are_consistent():
    """Figure 1 (175B, win rates against SFT) implies the head-to-head rates of section 1.

    PPO-ptx .66, prompted GPT-3 .41, GPT-3 .26 against SFT; printed: 71 +- 4 % against the
    prompted and 85 +- 3 % against the plain GPT-3.
    """
    judgements = (
        duels("ptx", "sft", 660, 340)
        + duels("prompted", "sft", 410, 590)
        + duels("gpt3", "sft", 260, 740)
    )
    found = {name: i.value for name, i in bradley_terry(judgements, num_samples=2).items()}

    def implied(other):  # Bradley-Terry: the odds are the exponential of the difference
        return 1 / (1 + math.exp(found[other] - found["ptx"]))

    odds = (0.66 / 0.34) / (0.26 / 0.74)
    assert implied("gpt3") == pytest.approx(odds / (1 + odds), abs=1e-3)
    assert implied("gpt3") == pytest.approx(0.85, abs=0.03)
    assert implied("gpt3") == pytest.approx(0.86, abs=0.02)  # by the drawing, not read off it
    assert implied("prompted") == pytest.approx(0.71, abs=0.04)
    assert implied("sft") == pytest.approx(0.66, abs=1e-3)


def test_models_that_never_met_are_compared_through_a_third():
    # 3 to 1 over the third, and 1 to 3 under it: odds of 9 to 1 between the two.
    judgements = duels("a", "sft", 300, 100) + duels("b", "sft", 100, 300)
    strengths = fit(judgements, num_samples=200)
    found = strengths.win_rate("a", "b")
    assert found.value == pytest.approx(0.9, abs=1e-3)
    assert found.low < 0.9 < found.high
    mirror = strengths.win_rate("b", "a")
    assert (mirror.value, mirror.low) == pytest.approx((1 - found.value, 1 - found.high))
    assert strengths.win_rate("a", "sft").value == pytest.approx(0.75, abs=1e-3)


def test_labelers_are_drawn_too_where_there_are_enough():
    """One labeler in six who always disagrees: other labelers are a doubt that prompts are not."""
    judgements = [
        Judgement(f"p{prompt}", ("a", "b"), (2, 1) if labeler == 0 else (1, 2), f"l{labeler}")
        for prompt in range(200)
        for labeler in range(6)
    ]
    by_labeler = fit(judgements, num_samples=300).of("a")
    same_person = [Judgement(j.prompt_id, j.models, j.ranks, "one") for j in judgements]
    by_prompt = fit(same_person, num_samples=300).of("a")
    assert by_labeler.value == by_prompt.value
    # Every prompt has the same verdicts, so drawing prompts changes nothing.
    assert by_prompt.high - by_prompt.low < 1e-9 < 0.5 < by_labeler.high - by_labeler.low


def test_one_prompt_gives_no_interval():
    found = bradley_terry([Judgement("p", ("a", "b"), (1, 2), "ann")])
    assert math.isnan(found["a"].low) and math.isnan(found["a"].high)
    with pytest.raises(EvaluationError, match="two models or more; got none"):
        bradley_terry([])


def test_rates_without_judgements():
    rates = {"a": 0.75, "b": 0.25, "c": 1.0}
    assert implied_win_rate(rates, "a", "b") == pytest.approx(0.9)
    with pytest.raises(EvaluationError, match="no finite strength"):
        implied_win_rate(rates, "a", "c")
