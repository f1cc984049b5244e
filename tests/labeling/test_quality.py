"""Figures of each labeler, drift and screening: hand-made labelers whose habits are known."""

import math

import numpy as np
import pytest
from scipy import stats

from heedful.labeling.agreement import Answer
from heedful.labeling.quality import WEEK_S, drift, labeler_quality, screening
from heedful.records import Rating
from heedful.statistics.pairs import Ranked


def answer(prompt, labeler, ranks, *, outputs="abcde", lengths=None, ratings=None, **times):
    size = len(ranks)
    given = tuple(None if r is None else Rating(r) for r in ratings or [None] * size)
    return Answer(
        str(prompt),
        labeler,
        tuple(outputs[:size]),
        tuple(ranks),
        tuple(lengths or [100] * size),
        given,
        times.get("active_s"),
        times.get("at_s", 0.0),
    )


def test_agreement_with_the_rest_and_of_the_rest_by_hand():
    # x and y order alike, z the other way round: xy 3 of 3, xz 0 of 3, yz 0 of 3.
    answers = [
        answer("p", "x", [1, 2, 3]),
        answer("p", "y", [1, 2, 3]),
        answer("p", "z", [3, 2, 1]),
    ]
    found = labeler_quality(answers)
    assert found["x"].strict.interval.value == 0.5 and found["x"].rest_strict == 0.0
    assert found["z"].strict.interval.value == 0.0 and found["z"].rest_strict == 1.0
    assert found["z"].strict.num_items == 6 and found["z"].num_shared_prompts == 1


def test_three_rates_of_a_labeler():
    # Pairs ab, ac, bc. x: < < <, y: = < <: two alike, one tied by y.
    found = labeler_quality([answer("p", "x", [1, 2, 3]), answer("p", "y", [1, 1, 2])])["y"]
    assert found.strict.interval.value == 1.0
    assert found.exact.interval.value == pytest.approx(2 / 3)
    assert found.tie_discounted.interval.value == pytest.approx(2.5 / 3)
    assert found.ties.interval.value == pytest.approx(1 / 3)
    assert math.isnan(found.rest_strict)  # nobody else


def test_agreement_has_bounds_from_thirty_shared_prompts_on():
    def pair_of(num):
        turn = [[1, 2, 3], [1, 3, 2]]
        return [answer(p, "x", [1, 2, 3]) for p in range(num)] + [
            answer(p, "y", turn[p % 2]) for p in range(num)
        ]

    few, enough = labeler_quality(pair_of(29))["x"], labeler_quality(pair_of(30))["x"]
    assert few.num_shared_prompts == 29 and math.isnan(few.strict.interval.low)
    assert few.strict.interval.value > 0.8
    assert 0 < enough.strict.interval.low < enough.strict.interval.value == pytest.approx(5 / 6)
    assert enough.strict.interval.high < 1


def test_gold_and_constant_prompts_are_no_part_of_the_agreement():
    answers = [answer(p, who, [1, 2]) for p in ("gold", "same", "free") for who in "xy"]
    found = labeler_quality(answers, gold={"gold": {"a": 1, "b": 2}}, constant=["same"])["x"]
    assert (found.num_answers, found.num_shared_prompts) == (3, 1)
    assert found.gold_accuracy.interval.value == 1.0 and found.gold_accuracy.num_items == 1


def test_gold_accuracy_counts_a_tie_half_and_pairs_that_gold_ties_not():
    gold = {"p": {"a": 1, "b": 2, "c": 2, "d": 3}}  # strict: ab ac ad bd cd
    # ranks a1 b1 c2 d0: ab tied, ac right, ad wrong, bd wrong, cd wrong
    found = labeler_quality([answer("p", "x", [2, 2, 3, 1])], gold=gold)["x"]
    assert found.gold_accuracy.num_items == 5
    assert found.gold_accuracy.interval.value == pytest.approx(1.5 / 5)
    assert labeler_quality([answer("q", "x", [1, 2])], gold=gold)["x"].gold_accuracy is None


def test_position_bias_is_seen_and_its_absence_too():
    rng = np.random.default_rng(0)
    answers = [answer(p, "lazy", [1, 2, 3, 4]) for p in range(60)]
    answers += [answer(p, "fair", (rng.permutation(4) + 1).tolist()) for p in range(400)]
    found = labeler_quality(answers)
    assert found["lazy"].first_ranked_best.interval.value == 1.0
    assert found["lazy"].first_ranked_best.interval.low > 0.9
    fair = found["fair"].first_ranked_best.interval
    assert fair.low < found["fair"].first_by_chance == 0.25 < fair.high


def test_ties_for_the_best_are_shared_so_that_chance_is_one_in_k():
    found = labeler_quality([answer("p", "x", [1, 1, 2, 2]), answer("q", "x", [5, 5])])["x"]
    assert found.first_ranked_best.interval.value == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found.first_by_chance == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_length_bias_by_hand():
    # Strict pairs of different length: ab (b longer, a better), ac (a longer and better).
    found = labeler_quality([answer("p", "x", [1, 2, 2], lengths=[50, 90, 20])])["x"]
    assert found.longer_preferred.num_items == 2
    assert found.longer_preferred.interval.value == 0.5
    alike = labeler_quality([answer("p", "x", [1, 2], lengths=[50, 50])])["x"]
    assert alike.longer_preferred is None


def test_contradictions_between_ratings_and_ranks():
    # ab: rated 3 < 6 but ranked better; ac: 3 > 2 and better; bc: 6 > 2 and better; d not rated.
    found = labeler_quality([answer("p", "x", [1, 2, 3, 4], ratings=[3, 6, 2, None])])["x"]
    assert found.contradictions.num_items == 3
    assert found.contradictions.interval.value == pytest.approx(1 / 3)


def test_active_time_counts_what_was_timed():
    answers = [answer(p, "x", [1, 2], active_s=s) for p, s in enumerate([60.0, 90.0, 300.0, None])]
    found = labeler_quality(answers)["x"]
    assert (found.num_answers, found.median_active_s, found.active_s) == (4, 90.0, 450.0)
    assert math.isnan(labeler_quality([answer("p", "y", [1, 2])])["y"].median_active_s)
    assert labeler_quality([]) == {}


def constant_items(num_weeks, per_week, wrong_from):
    """Six steady labelers, and one who orders constant pairs the wrong way from a week on."""
    answers = []
    for item in range(num_weeks * per_week):
        week = item % num_weeks
        answers += [answer(item, f"s{k}", [1, 2], at_s=1e9) for k in range(6)]
        ranks = [2, 1] if week >= wrong_from else [1, 2]
        answers.append(answer(item, "who", ranks, at_s=1e9 + week * WEEK_S + 3600))
    return answers, [str(item) for item in range(num_weeks * per_week)]


def test_drift_shows_the_week_in_which_a_labeler_changed():
    answers, constant = constant_items(num_weeks=6, per_week=10, wrong_from=4)
    found = drift(answers, constant, labeler="who")
    assert [week.agreement.interval.value for week in found.weeks] == [1, 1, 1, 1, 0, 0]
    assert [week.start_s for week in found.weeks] == [1e9 + k * WEEK_S for k in range(6)]
    assert [week.agreement.num_items for week in found.weeks] == [10] * 6
    # Least squares of 1 1 1 1 0 0 on 0 .. 5.
    expected = stats.linregress(range(6), [1, 1, 1, 1, 0, 0]).slope
    assert found.slope.value == pytest.approx(expected)
    assert found.slope.high < 0


def test_no_drift_in_a_steady_labeler_and_none_without_constant_items():
    answers, constant = constant_items(num_weeks=6, per_week=10, wrong_from=99)
    steady = drift(answers, constant, labeler="who")
    assert (steady.slope.value, steady.slope.low, steady.slope.high) == (0.0, 0.0, 0.0)
    assert drift(answers, [], labeler="who") is None
    assert drift(answers, constant, labeler="nobody") is None
    assert sum(week.agreement.num_items for week in drift(answers, constant).weeks) == 7 * 60


def test_drift_over_few_items_has_no_bounds():
    answers, constant = constant_items(num_weeks=2, per_week=4, wrong_from=1)
    found = drift(answers, constant, labeler="who")
    assert found.slope.value == -1.0 and math.isnan(found.slope.low)


def test_drift_compares_with_the_order_of_the_others():
    # The others' mean ranks of a, b, c are 1.5, 1.5, 3: ab is tied, so x can only agree on ac, bc.
    answers = [
        answer("p", "x", [1, 3, 2]),
        answer("p", "y", [1, 2, 3]),
        answer("p", "z", [2, 1, 3]),
    ]
    (week,) = drift(answers, ["p"], labeler="x").weeks
    assert (week.agreement.interval.value, week.agreement.num_items) == (0.5, 2)


def ranked(prompt, ranks):
    return Ranked(prompt, "applicant", dict(zip("abcd", ranks, strict=False)))


def test_screening_beside_the_papers_cutoffs():
    flags = [(True, True)] * 40 + [(False, True)] * 10 + [(False, False)] * 10
    reference = {"p": {"a": 1, "b": 2, "c": 3}, "q": {"a": 1, "b": 1, "c": 2}}
    rankings = [ranked("p", [1, 2, 2]), ranked("q", [1, 2, 3])]
    found = screening(flags, rankings, reference, [7, 6, 6, 5, 7])
    assert [one.cutoff for one in found.values()] == [0.75, 0.75, 6.0]
    sensitive = found["sensitive_speech"]
    assert sensitive.interval.value == pytest.approx(5 / 6) and sensitive.num_items == 60
    wilson = stats.binomtest(50, 60).proportion_ci(method="wilson")
    assert sensitive.interval.low == pytest.approx(wilson.low, abs=0.01)
    assert sensitive.meets and not sensitive.certain  # 0.72 to 0.91
    # p: ab, ac right, bc tied; q: ac, bc right: 4.5 of 5.
    assert found["ranking"].interval.value == pytest.approx(0.9)
    assert found["ranking"].num_items == 5 and found["ranking"].meets
    assert found["demonstration"].interval.value == pytest.approx(6.2)
    low, high = stats.t.interval(0.95, 4, loc=6.2, scale=stats.sem([7, 6, 6, 5, 7]))
    assert found["demonstration"].interval.low == pytest.approx(low, abs=0.01)
    assert found["demonstration"].interval.high == 7.0 < high  # the scale ends there


def test_screening_is_certain_where_the_interval_leaves_no_doubt():
    found = screening([(True, False)] * 60, [], {}, [])
    assert list(found) == ["sensitive_speech"]
    assert not found["sensitive_speech"].meets and found["sensitive_speech"].certain
    sure = screening([(True, True)] * 60, [], {}, [])["sensitive_speech"]
    assert sure.meets and sure.certain
    # Twenty items: 80 % is known to some 19 points either way.
    few = screening([(True, True)] * 16 + [(True, False)] * 4, [], {}, [])["sensitive_speech"]
    assert few.meets and not few.certain
    assert 0.15 < (few.interval.high - few.interval.low) / 2 < 0.21


def test_two_equal_scores_are_no_certainty():
    found = screening([], [], {}, [7, 7])["demonstration"]
    assert found.meets and math.isnan(found.interval.low) and not found.certain


def test_a_hundred_labelers_at_once():
    rng = np.random.default_rng(1)
    answers = []
    for prompt in range(400):
        for labeler in rng.permutation(100)[:3]:
            answers.append(answer(prompt, f"l{labeler:02d}", (rng.permutation(4) + 1).tolist()))
    found = labeler_quality(answers)
    assert list(found) == sorted({one.labeler for one in answers})
    # Guessing: the shares of all labelers lie around one half, weighed by their pairs.
    items = sum(one.strict.num_items for one in found.values())
    hits = sum(one.strict.num_items * one.strict.interval.value for one in found.values())
    assert items == 2 * 400 * 3 * 6  # each of 1200 observations of 6 pairs, for both
    assert hits / items == pytest.approx(0.5, abs=0.03)
