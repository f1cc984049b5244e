"""Preference statistics: hand cases, scipy as the oracle, and the paper's own figures."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from heedful.errors import EvaluationError
from heedful.evaluation.preference import (
    agreement,
    bradley_terry,
    fit_strengths,
    likert,
    metadata_rates,
    order_agreement,
    win_rate,
)
from heedful.records import Judgement, Rating


def judge(prompt_id, ranks, labeler="ann", cohort="train", ratings=None):
    """A judgement from a mapping of model to rank."""
    return Judgement(prompt_id, tuple(ranks), tuple(ranks.values()), labeler, cohort, ratings)


def duels(model, baseline, num_wins, num_losses, num_ties=0):
    outcomes = [(1, 2)] * num_wins + [(2, 1)] * num_losses + [(1, 1)] * num_ties
    return [
        judge(f"{model}/{baseline}/{i}", {model: a, baseline: b})
        for i, (a, b) in enumerate(outcomes)
    ]


def simulated(strengths, num_prompts, num_labelers, seed, noise=1.0, cohort="train"):
    """Rankings by Gumbel utilities: pairwise they follow Bradley-Terry with these strengths."""
    rng = np.random.default_rng(seed)
    found = []
    for prompt in range(num_prompts):
        for labeler in rng.choice(num_labelers, size=2, replace=False):
            utility = {name: s + noise * rng.gumbel() for name, s in strengths.items()}
            order = sorted(utility, key=utility.get, reverse=True)
            ranks = {name: order.index(name) + 1 for name in strengths}
            found.append(judge(f"p{prompt}", ranks, f"{cohort}-{labeler}", cohort))
    return found


def test_win_rate_counts_ties_as_half():
    found = win_rate(duels("ppo", "sft", num_wins=5, num_losses=2, num_ties=3), "ppo", "sft")
    assert found.value == pytest.approx(6.5 / 10)
    assert (found.num_judgements, found.num_prompts, found.num_labelers) == (10, 10, 1)
    assert found.interval.low < 0.65 < found.interval.high


def test_win_rate_and_its_mirror_add_up_to_one():
    judgements = duels("a", "b", 7, 4, 2)
    forth, back = win_rate(judgements, "a", "b"), win_rate(judgements, "b", "a")
    assert forth.value + back.value == pytest.approx(1)
    assert forth.interval.low + back.interval.high == pytest.approx(1, abs=0.04)


def test_several_outputs_of_a_model_count_as_all_their_pairs():
    # Outputs of a at ranks 1 and 3, of b at ranks 2 and 3: won, won, lost, tied = 2.5 of 4.
    judgement = Judgement("p", ("a", "b", "a", "b"), (1, 2, 3, 3), "ann")
    assert win_rate([judgement], "a", "b").value == 2.5 / 4


def test_win_rate_by_cohort_and_with_others_in_the_ranking():
    judgements = [
        judge("p", {"a": 1, "c": 2, "b": 3}),
        judge("q", {"c": 1, "a": 2}),
        judge("p", {"a": 3, "c": 2, "b": 1}, "eve", "heldout"),
    ]
    assert win_rate(judgements, "a", "b").value == 0.5
    assert win_rate(judgements, "a", "b", cohort="train").value == 1.0
    assert win_rate(judgements, "a", "b", cohort="heldout").value == 0.0


def test_interval_is_two_way_only_with_labelers_enough():
    few = simulated({"a": 1.0, "b": 0.0}, 40, 4, seed=0)
    many = simulated({"a": 1.0, "b": 0.0}, 40, 12, seed=0)
    assert win_rate(few, "a", "b").interval == win_rate(few, "a", "b").by_prompt
    assert win_rate(many, "a", "b").interval == win_rate(many, "a", "b").two_way


def test_unknown_models_are_named():
    with pytest.raises(EvaluationError, match="models seen: ppo, sft"):
        win_rate(duels("ppo", "sft", 1, 1), "ptx", "sft")
    with pytest.raises(EvaluationError, match="equally many"):
        win_rate([Judgement("p", ("a", "b"), (1,), "ann")], "a", "b")


def test_likert_and_metadata_by_hand():
    yes, no, unasked = {"hallucination": True}, {"hallucination": False}, {"hallucination": None}
    judgements = [
        judge("p", {"a": 1, "b": 2}, ratings=(Rating(7, no), Rating(2, yes))),
        judge("q", {"a": 1, "b": 2}, ratings=(Rating(5, yes | {"violent": False}), None)),
        judge("r", {"a": 1, "b": 1}, ratings=(Rating(6, unasked), Rating(3, {}))),
        judge("s", {"a": 1, "b": 1}),
    ]
    means = likert(judgements)
    assert {name: (m.interval.value, m.num_answers) for name, m in means.items()} == {
        "a": (6.0, 3),
        "b": (2.5, 2),
    }
    rates = metadata_rates(judgements)
    assert list(rates["a"]) == ["hallucination", "violent"]
    assert rates["a"]["hallucination"].interval.value == 0.5
    assert rates["a"]["hallucination"].num_answers == 2
    assert rates["a"]["violent"].interval.value == 0.0
    assert rates["b"]["hallucination"].interval.value == 1.0
    assert list(rates["b"]) == ["hallucination"]


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
    assert implied("prompted") == pytest.approx(0.71, abs=0.04)
    assert implied("sft") == pytest.approx(0.66, abs=1e-3)


def test_agreement_by_hand():
    # ann and bob share three pairs: a-b alike, a-c alike, b-c reversed.
    # With cid, who ties b and c and turns a over: a-b and a-c differ for both, b-c does not count.
    judgements = [
        judge("p", {"a": 1, "b": 2, "c": 3}, "ann"),
        judge("p", {"c": 2, "b": 3, "a": 1}, "bob"),
        judge("p", {"a": 2, "b": 1, "c": 1}, "cid"),
        judge("p", {"a": 2, "b": 1, "c": 3}, "eve", "heldout"),
        judge("q", {"a": 1, "b": 2}, "ann"),
    ]
    found = agreement(judgements)
    assert list(found) == ["train"]
    assert found["train"].interval.value == pytest.approx(2 / 7)
    assert found["train"].num_pairs == 7
    assert (found["train"].num_prompts, found["train"].num_labelers) == (1, 3)


def test_agreement_of_twins_and_opposites():
    ranks = {"a": 1, "b": 2, "c": 3}
    reverse = {"a": 3, "b": 2, "c": 1}
    twins = [judge(f"p{i}", ranks, name) for i in range(5) for name in ("ann", "bob")]
    assert agreement(twins)["train"].interval.value == 1.0
    opposites = [judge("p", ranks, "ann"), judge("p", reverse, "bob")]
    assert agreement(opposites)["train"].interval.value == 0.0
    same_person = [judge("p", ranks, "ann"), judge("p", ranks, "ann")]
    assert agreement(same_person) == {}


def test_agreement_matches_the_chance_of_the_simulation():
    # Two independent verdicts with P(a preferred) = q agree with chance q^2 + (1-q)^2.
    q = 1 / (1 + math.exp(-1.0))
    found = agreement(simulated({"a": 1.0, "b": 0.0}, 1500, 12, seed=2))["train"].interval
    assert found.value == pytest.approx(q * q + (1 - q) ** 2, abs=0.03)
    assert found.low < q * q + (1 - q) ** 2 < found.high


def test_order_agreement_matches_scipy():
    truth = {"base": -0.6, "ppo": 0.3, "ptx": 0.4, "old": 0.0, "sft": 0.1}
    judgements = simulated(truth, 60, 6, seed=3) + simulated(truth, 60, 6, 9, cohort="heldout")
    models = ["base", "ppo", "ptx", "old"]

    def rates(cohort):
        rows = [j for j in judgements if j.cohort == cohort]
        return [
            np.mean([j.ranks[j.models.index(m)] < j.ranks[j.models.index("sft")] for j in rows])
            for m in models
        ]

    found = order_agreement(judgements, models, "sft")
    expected = stats.kendalltau(rates("train"), rates("heldout")).statistic
    assert found.value == pytest.approx(expected)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_order_agreement_of_like_and_reversed_cohorts():
    forth = {"a": 1, "b": 2, "sft": 3}
    alike = [judge("p", forth), judge("q", {"a": 1, "sft": 2, "b": 3})]
    held_out = [
        judge(j.prompt_id, dict(zip(j.models, j.ranks, strict=True)), "eve", "heldout")
        for j in alike
    ]
    assert order_agreement(alike + held_out, ["a", "b"], "sft").value == 1.0
    reverse = [judge("q", {"b": 1, "sft": 2, "a": 3}, "eve", "heldout")]
    assert order_agreement(alike + reverse, ["a", "b"], "sft").value == -1.0
    with pytest.raises(EvaluationError, match="both training and held-out"):
        order_agreement(alike, ["a", "b"], "sft")
