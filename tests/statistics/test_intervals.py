"""Bootstrap intervals: hand numbers, invariants, and whether 95 % means 95 %."""

import math

import numpy as np
import pytest
from scipy import stats

from heedful.errors import EvaluationError
from heedful.statistics.formulas import Share, mean_interval, shares, student_t
from heedful.statistics.intervals import (
    Interval,
    bootstrap,
    bootstrap_all,
    cluster_draws,
    difference_of_independent,
    paired_difference,
    ratio,
    recovered_share,
    resampled_sums,
    two_way_bootstrap,
)


def test_value_is_the_plain_mean_and_bounds_enclose_it():
    interval = bootstrap([0.0, 1.0, 1.0, 0.5], ["p", "q", "r", "s"], seed=1)
    assert interval.value == 0.625
    assert 0.0 <= interval.low < 0.625 < interval.high <= 1.0


def test_two_clusters_give_the_exact_binomial_quantiles():
    # Two clusters with means 0 and 1: a sample is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
    interval = bootstrap([0.0, 0.0, 1.0, 1.0], [7, 7, 9, 9], level=0.4, seed=0)
    assert (interval.low, interval.high) == (0.5, 0.5)
    interval = bootstrap([0.0, 0.0, 1.0, 1.0], [7, 7, 9, 9], level=0.9, seed=0)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_singleton_clusters_match_scipy_bootstrap():
    values = np.random.default_rng(3).normal(size=200)
    ours = bootstrap(values, np.arange(200), num_samples=4000, seed=5)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(8)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.high, abs=0.015)


def test_same_seed_same_interval_and_names_of_clusters_do_not_matter():
    values = np.random.default_rng(0).normal(size=60)
    numbers = np.arange(60) // 3
    names = np.array([f"prompt {number:03d}" for number in numbers])
    assert bootstrap(values, numbers, seed=4) == bootstrap(values, names, seed=4)


def test_shift_and_scale_carry_over():
    values = np.random.default_rng(0).normal(size=40)
    plain = bootstrap(values, np.arange(40) // 2, seed=4)
    moved = bootstrap(3 * values + 10, np.arange(40) // 2, seed=4)
    for name in ("value", "low", "high"):
        assert getattr(moved, name) == pytest.approx(3 * getattr(plain, name) + 10)


def test_repeating_every_row_of_a_cluster_adds_no_information():
    values = np.random.default_rng(2).normal(size=30)
    once = bootstrap(values, np.arange(30), seed=6)
    thrice = bootstrap(np.repeat(values, 3), np.repeat(np.arange(30), 3), seed=6)
    assert thrice.low == pytest.approx(once.low)
    assert thrice.high == pytest.approx(once.high)


def test_missing_answers_are_left_out():
    interval = bootstrap([1.0, math.nan, 0.0, 1.0], [0, 0, 1, 2], seed=0)
    assert interval.value == pytest.approx(2 / 3)


def test_one_cluster_gives_no_bounds():
    interval = bootstrap([0.0, 1.0], ["only", "only"], seed=0)
    assert interval.value == 0.5 and math.isnan(interval.low) and math.isnan(interval.high)
    assert interval.to_row() == {"value": 0.5, "low": None, "high": None}


def test_paired_difference_is_the_bootstrap_of_the_differences():
    a, b = [3.0, 2.0, 5.0, 4.0], [1.0, 2.0, 2.0, 4.0]
    assert paired_difference(a, b, [0, 1, 2, 3], seed=0) == bootstrap(
        [2.0, 0.0, 3.0, 0.0], [0, 1, 2, 3], seed=0
    )
    constant = paired_difference([2.0, 3.0], [1.0, 2.0], [0, 1], seed=0)
    assert constant == Interval(1.0, 1.0, 1.0)


def test_statistics_over_columns():
    rows = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 2.0]])
    interval = bootstrap(rows, [0, 1, 2], statistic=ratio, seed=0)
    assert interval.value == pytest.approx(6 / 10)
    # Base 1.0, PPO 2.0, PPO-ptx 1.25: three quarters of the loss is won back.
    columns = np.array([[1.0, 2.0, 1.25]] * 4)
    assert bootstrap(columns, range(4), statistic=recovered_share, seed=0) == Interval(
        0.75, 0.75, 0.75
    )


def test_ratio_with_a_rare_denominator_may_be_infinite_above():
    rows = np.array([[1.0, 1.0]] + [[1.0, 0.0]] * 3)
    interval = bootstrap(rows, range(4), statistic=ratio, seed=0)
    assert interval.value == 4.0 and interval.high == math.inf


def test_pair_clusters_weigh_by_the_product_of_draws():
    # Labelers a, b, c; the only rows are the pairs (a,b) and (a,c). Without a draw of ``a`` there
    # is no row at all, so such samples are left out and the value can only be 0, 1 or between.
    interval = bootstrap([0.0, 1.0], [["a", "b"], ["a", "c"]], seed=0)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_two_way_is_wider_than_either_way_alone():
    rng = np.random.default_rng(1)
    prompts, labelers = np.repeat(np.arange(80), 8), np.tile(np.arange(8), 80)
    values = rng.normal(size=80)[prompts] + rng.normal(size=8)[labelers]
    both = two_way_bootstrap(values, prompts, labelers, seed=0)
    by_prompt = bootstrap(values, prompts, seed=0)
    by_labeler = bootstrap(values, labelers, seed=0)
    assert both.value == by_prompt.value == by_labeler.value
    widest = max(by_prompt.high - by_prompt.low, by_labeler.high - by_labeler.low)
    assert both.high - both.low > widest


def test_two_way_variance_is_the_sum_of_three_terms():
    # For a full table the pigeonhole variance is about var/P + var/L of the two marginal means
    # (plus the residual), computed here from the table itself.
    rng = np.random.default_rng(5)
    table = rng.normal(size=60)[:, None] + 0.7 * rng.normal(size=25)[None, :]
    prompts, labelers = np.repeat(np.arange(60), 25), np.tile(np.arange(25), 60)
    interval = two_way_bootstrap(table.ravel(), prompts, labelers, num_samples=4000, seed=2)
    expected = math.sqrt(table.mean(1).var() / 60 + table.mean(0).var() / 25)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("cells_per_row", [0, 16])
def test_two_way_sums_are_those_of_rows_counted_by_hand(monkeypatch, cells_per_row):
    # Few cells for many rows go through a table, else every row is weighed: the same draws.
    monkeypatch.setattr("heedful.statistics.intervals._MAX_CELLS", cells_per_row)
    rng = np.random.default_rng(8)
    prompts, labelers = rng.integers(12, size=90), rng.integers(4, size=90)
    rows = rng.normal(size=(90, 2))
    found = resampled_sums(rows, [prompts, labelers], num_samples=30, seed=6)
    drawer = np.random.default_rng(6)
    drawn_prompts, drawn_labelers = (
        drawer.integers(12, size=(30, 12)),
        drawer.integers(4, size=(30, 4)),
    )
    for draw in range(30):
        times = [
            drawn_prompts[draw].tolist().count(p) * drawn_labelers[draw].tolist().count(who)
            for p, who in zip(prompts.tolist(), labelers.tolist(), strict=True)
        ]
        assert found[draw] == pytest.approx(np.array(times) @ rows)


def test_draws_keep_the_number_of_clusters():
    drawn = cluster_draws(np.random.default_rng(0), 500, 12)
    assert (drawn.sum(axis=1) == 12).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(12), abs=0.2)


def test_chunks_do_not_change_the_answer(monkeypatch):
    values, prompts = np.random.default_rng(0).normal(size=90), np.arange(90) // 3
    whole = bootstrap(values, prompts, num_samples=300, seed=3)
    monkeypatch.setattr("heedful.statistics.intervals._CHUNK_ENTRIES", 1000)
    assert bootstrap(values, prompts, num_samples=300, seed=3).low == pytest.approx(whole.low)


@pytest.mark.parametrize("by", ["prompt", "two_way"])
def test_coverage(by):
    """95 % intervals contain the truth in about 95 of 100 simulated studies.

    The prompt interval answers for new prompts under a fixed team, the two-way interval for new
    prompts and new labelers. An interval over rows covers 77 % and 61 % (2,000 studies).
    """
    rng = np.random.default_rng(17)
    prompts, labelers = np.repeat(np.arange(50), 4), np.tile(np.arange(20), 10)
    covered, too_narrow, num_studies = 0, 0, 200
    for study in range(num_studies):
        noise = rng.normal(size=200) + rng.normal(size=50)[prompts]
        if by == "two_way":
            values = noise + rng.normal(size=20)[labelers]
            found = two_way_bootstrap(values, prompts, labelers, num_samples=300, seed=study)
        else:
            values = noise
            found = bootstrap(values, prompts, num_samples=300, seed=study)
        covered += found.low <= 0 <= found.high
        naive = 1.96 * values.std() / math.sqrt(200)
        too_narrow += abs(values.mean()) > naive
    assert 0.90 <= covered / num_studies <= 0.99
    assert too_narrow / num_studies > 0.15


def test_statistics_of_one_call_are_those_of_single_calls():
    rng = np.random.default_rng(4)
    rows, prompts = rng.uniform(1, 2, size=(60, 2)), np.arange(60) // 2
    both = bootstrap_all(
        rows, [prompts], {"ratio": ratio, "first": lambda means: means[:, 0]}, seed=3
    )
    assert both["ratio"] == bootstrap(rows, prompts, statistic=ratio, seed=3)
    assert both["first"] == bootstrap(rows[:, 0], prompts, seed=3)


def test_pairs_of_labelers_are_added_up_before_drawing():
    # 400 rows of 3 pairs, in either order, are as the 3 rows of their sums.
    rng = np.random.default_rng(5)
    pairs = np.array([["a", "b"], ["a", "c"], ["b", "c"]])[rng.integers(3, size=400)]
    pairs = np.where(rng.random(400)[:, None] < 0.5, pairs, pairs[:, ::-1])
    hits = rng.integers(2, size=400).astype(float)
    rows = np.stack([hits, np.ones(400)], axis=1)
    names = ["a b", "a c", "b c"]
    joined = np.array([" ".join(sorted(pair)) for pair in pairs.tolist()])
    few = np.array([rows[joined == name].sum(axis=0) for name in names])
    whole = bootstrap(rows, pairs, statistic=ratio, seed=1)
    summed = bootstrap(few, [name.split() for name in names], statistic=ratio, seed=1)
    assert whole.low == pytest.approx(summed.low) and whole.high == pytest.approx(summed.high)


def test_share_of_independent_items_is_wilson_with_student_t():
    # Items on their own, half of them hit: variance n/(n-1) p(1-p)/n, so n - 1 independent items.
    hits = np.array([1.0, 0.0] * 20)
    found = shares(hits, np.ones(40), np.arange(40))[""]
    t, n = stats.t.ppf(0.975, 39), 39
    half = t / (1 + t**2 / n) * math.sqrt(0.25 / n + t**2 / (4 * n**2))
    assert (found.num_items, found.num_clusters) == (40, 40)
    assert found.interval.low == pytest.approx(0.5 - half, abs=1e-6)
    assert found.interval.high == pytest.approx(0.5 + half, abs=1e-6)


def test_share_of_many_items_matches_scipy():
    hits = np.zeros(2000)
    hits[:1460] = 1
    ours = shares(hits, np.ones(2000), np.arange(2000))[""].interval
    theirs = stats.binomtest(1460, 2000).proportion_ci(method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=2e-4)
    assert ours.high == pytest.approx(theirs.high, abs=2e-4)


def test_share_where_all_are_hit_counts_clusters_not_items():
    # Three clusters of 100 items, all hit: known no better than three items all hit.
    found = shares([100.0] * 3, [100.0] * 3, ["p", "q", "r"])[""]
    t = stats.t.ppf(0.975, 2)
    assert found.interval.value == found.interval.high == 1.0
    assert found.interval.low == pytest.approx(3 / (3 + t**2), abs=0.02)
    assert found.num_items == 300 and found.num_clusters == 3


def test_shares_by_group_and_what_is_left_out():
    found = shares([1, 0, 2, 0], [1, 1, 2, 0], ["p", "q", "p", "q"], ["x", "x", "y", "z"])
    assert sorted(found) == ["x", "y"]
    assert found["x"].interval.value == 0.5
    assert found["y"].num_clusters == 1 and math.isnan(found["y"].interval.low)
    assert isinstance(found["y"], Share) and found["y"].interval.value == 1.0


def test_share_interval_is_near_the_bootstrap_over_clusters():
    rng = np.random.default_rng(9)
    chance = rng.beta(4, 2, size=120)
    items = rng.integers(4, 12, size=120)
    hits = rng.binomial(items, chance)
    ours = shares(hits, items, np.arange(120))[""].interval
    drawn = bootstrap(np.stack([hits, items], axis=1), np.arange(120), statistic=ratio, seed=0)
    assert ours.value == drawn.value
    assert ours.low == pytest.approx(drawn.low, abs=0.01)
    assert ours.high == pytest.approx(drawn.high, abs=0.01)


def test_share_coverage():
    """Clustered answers of one labeler: 95 % of intervals hold the truth, at 30 prompts too."""
    rng = np.random.default_rng(23)
    num_studies, prompts = 600, np.arange(30)
    chance = rng.beta(6, 2, size=(num_studies, 30))
    hits = rng.binomial(10, chance)
    found = shares(
        hits.ravel(),
        np.full(hits.size, 10),
        np.tile(prompts, num_studies),
        np.repeat([f"{study:03d}" for study in range(num_studies)], 30),
    )
    held = sum(one.interval.low <= 0.75 <= one.interval.high for one in found.values())
    assert 0.925 <= held / num_studies <= 0.975


def test_student_t_matches_scipy():
    freedom = np.array([4.0, 7.0, 20.0, 200.0])
    assert student_t(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.01)
    assert student_t(0.975, np.array([2.0]))[0] == pytest.approx(stats.t.ppf(0.975, 2), abs=0.15)
    assert math.isnan(student_t(0.975, np.array([0.0]))[0])


def test_mean_interval_matches_scipy():
    values = [5.0, 6.0, 7.0, 6.0, 4.0, 6.0, 7.0, 5.0]
    low, high = stats.t.interval(0.95, 7, loc=np.mean(values), scale=stats.sem(values))
    found = mean_interval(values)
    assert found.value == 5.75
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    assert math.isnan(mean_interval([6.0]).low)


def test_the_difference_of_what_was_measured_apart():
    # Newcombe 1998, method 10: 56 of 70 against 48 of 80 differ by 0.0524 to 0.3339 around 0.2
    pairs = ((56, 70), (48, 80))
    a, b = (
        Interval(won / n, *stats.binomtest(won, n).proportion_ci(method="wilson"))
        for won, n in pairs
    )
    found = difference_of_independent(a, b)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert math.isnan(difference_of_independent(a, Interval(0.5, math.nan, math.nan)).low)


def test_errors_say_what_was_wrong():
    with pytest.raises(EvaluationError, match="at least one value"):
        bootstrap([], [], seed=0)
    with pytest.raises(EvaluationError, match="one cluster for each row"):
        bootstrap([1.0, 2.0], [0], seed=0)
    with pytest.raises(EvaluationError, match="between 0 and 1"):
        bootstrap([1.0, 2.0], [0, 1], level=95, seed=0)
    with pytest.raises(EvaluationError, match="of one column"):
        bootstrap([[1.0, 2.0], [3.0, 4.0]], [0, 1], seed=0)
    with pytest.raises(EvaluationError, match="same item"):
        paired_difference([1.0], [1.0, 2.0], [0], seed=0)
    with pytest.raises(EvaluationError, match="one length"):
        shares([1.0, 0.0], [1.0], [0, 1])
    with pytest.raises(EvaluationError, match="between 0 and 1"):
        shares([1.0], [1.0], [0], level=95)
    with pytest.raises(EvaluationError, match="at least one value"):
        mean_interval([])


def test_normal_sums_give_the_bounds_of_drawing_clusters():
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(3000), 2)
    values = rng.exponential(size=(3000, 1)).repeat(2, axis=0) + rng.normal(size=(6000, 2))
    ratio_of = {"ratio": lambda means: means[:, 0] / means[:, 1]}
    settings = {"num_samples": 4000, "seed": 1}
    drawn = bootstrap_all(values, [clusters], ratio_of, **settings)["ratio"]
    normal = bootstrap_all(values, [clusters], ratio_of, **settings, normal_from=3000)["ratio"]
    assert normal.value == drawn.value and normal.low != drawn.low
    half = (drawn.high - drawn.low) / 2
    assert normal.low == pytest.approx(drawn.low, abs=0.1 * half)
    assert normal.high == pytest.approx(drawn.high, abs=0.1 * half)
    few = bootstrap_all(values, [clusters], ratio_of, **settings, normal_from=3001)["ratio"]
    assert few == drawn


def test_normal_sums_of_a_mean_are_the_formula():
    values = np.arange(5000) % 7 / 7.0
    found = bootstrap_all(
        values, [np.arange(5000)], {"": "mean"}, num_samples=20_000, seed=2, normal_from=10
    )[""]
    half = 1.96 * values.std() / math.sqrt(5000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
