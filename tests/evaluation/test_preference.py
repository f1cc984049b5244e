"""Preference statistics: hand cases, scipy as the oracle, and the paper's own figures."""

import math

import numpy as np
import pytest
from scipy import stats

from heedful.errors import EvaluationError
from heedful.evaluation.preference import (
    agreement,
    likert,
    metadata_rates,
    order_agreement,
    two_by_two,
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


def test_two_by_two_of_labelers_and_prompts():
    judgements = [
        judge("p", {"ptx": 1, "sft": 2, "gpt": 3}),
        judge("q", {"ptx": 2, "sft": 1}),
        judge("r", {"ptx": 1, "sft": 1, "gpt": 2}),
        judge("p", {"ptx": 1, "sft": 2, "gpt": 3}, "eve", "heldout"),
    ]
    sources = {"p": "InstructGPT", "q": "InstructGPT", "r": "GPT-3"}
    found = two_by_two(judgements, sources, ["ptx", "gpt"], "sft")
    rates = {cell: {r.model: r.value for r in rates} for cell, rates in found.items()}
    assert rates == {
        ("train", "GPT-3"): {"ptx": 0.5, "gpt": 0.0},
        ("train", "InstructGPT"): {"ptx": 0.5, "gpt": 0.0},
        ("heldout", "InstructGPT"): {"ptx": 1.0, "gpt": 0.0},
    }
    assert {r.cohort for r in found["heldout", "InstructGPT"]} == {"heldout"}
    with pytest.raises(EvaluationError, match=r"1 judged prompts belong to no distribution.*'r'"):
        two_by_two(judgements, {"p": "a", "q": "a"}, ["ptx"], "sft")


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
