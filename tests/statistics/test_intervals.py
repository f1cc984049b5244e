"""Bootstrap intervals: hand numbers, invariants, and whether 95 % means 95 %."""

import math

import numpy as np
import pytest
from scipy import stats

from heedful.errors import EvaluationError
from heedful.statistics.intervals import (
    Interval,
    bootstrap,
    cluster_draws,
    paired_difference,
    ratio,
    recovered_share,
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
