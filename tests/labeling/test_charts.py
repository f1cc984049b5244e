"""Charts of researchers' pages: the numbers that they are given, in words and in tables."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from heedful.labeling import charts
from heedful.labeling.figures import Figures
from heedful.labeling.quality import Drift, LabelerQuality, Week
from heedful.labeling.rating_agreement import Alpha
from heedful.statistics.formulas import Share
from heedful.statistics.intervals import Interval
from heedful.store.pools import Progress


def quality(name, num_answers, strict):
    share = Share(Interval(strict, strict - 0.1, strict + 0.1), 10, 10)
    return LabelerQuality(
        name, num_answers, 10, share, share, share, 0.5, None, None, share, 0.25, None, None, 60.0,
        600.0,
    )  # fmt: skip


def figures(by_number, drift=None, drifts=None):
    nothing = Alpha(math.nan, 0, 0, "nothing")
    return Figures(9, None, None, nothing, (), by_number, drifts or {}, drift)


def test_days_stand_from_the_oldest_to_the_newest():
    (drawn,) = charts.throughput([(2 * 86400.0, 5), (86400.0, 0), (0.0, 3)])
    assert "<desc>submissions (UTC days). 01-01: 3. 01-02: 0. 01-03: 5.</desc>" in drawn
    assert "<td>01-03</td><td>5</td>" in drawn


def test_the_queue_has_what_is_done_and_what_is_wanted():
    (drawn,) = charts.queue([Progress("ranking", 4, 7, 1, 12, 0)])
    assert "ranking: answers: 12. ranking: wanted: 7." in drawn
    assert charts.queue([]) == []


def test_each_labeler_is_a_dot_on_an_interval():
    drawn = charts.of_labelers(
        figures({1: quality("1", 5, 0.7), 2: quality("2", 50, 0.8)}), {1: "Lea <b>", 2: "Leo"}
    )
    strict, position = drawn  # nothing was measured of gold, ties, length and drift
    assert "<title>Agreement, strict</title>" in strict and "<title>Position" in position
    assert "Leo: 80 %, 95 % interval 70 % to 90 %. Lea &lt;b&gt;: 70 %, 95 %" in strict
    assert 'class="reference"' in position and 'class="reference"' not in strict


def test_axes_of_shares_end_at_none_and_all():
    """One labeler and no interval: the room beside a lone value is not taken over 100 %."""
    share = Share(Interval(1.0, math.nan, math.nan), 3, 1)
    one = replace(quality("1", 5, 0.5), strict=share, first_ranked_best=None)
    (strict,) = charts.of_labelers(figures({1: one}), {1: "Lea"})
    ticks = [float(one) for one in re.findall(r'class="tick"[^>]*>([\d.]+) %<', strict)]
    assert ticks and max(ticks) == 100 and min(ticks) >= 50
    nobody = replace(one, strict=Share(Interval(0.0, math.nan, math.nan), 3, 1))
    (strict,) = charts.of_labelers(figures({1: nobody}), {1: "Lea"})
    ticks = [float(one) for one in re.findall(r'class="tick"[^>]*>(-?[\d.]+) %<', strict)]
    assert min(ticks) == 0 and max(ticks) <= 100


def test_a_chart_has_the_labelers_with_most_answers():
    many = {number: quality(str(number), number, 0.7) for number in range(1, 60)}
    strict, _ = charts.of_labelers(figures(many), {number: f"L{number}" for number in many})
    assert strict.count('class="dot c0"') == charts.MOST_LABELERS
    assert ">L59<" in strict and ">L20<" in strict and ">L19<" not in strict


def test_drift_is_drawn_week_by_week_and_by_labeler():
    week = 7 * 86400.0
    weeks = [Week(1e9 + n * week, Share(Interval(v, 0, 1), 9, 9)) for n, v in ((0, 0.9), (2, 0.5))]
    drift = Drift(tuple(weeks), Interval(-0.2, -0.3, -0.1))
    *_, line, dots = charts.of_labelers(
        figures({1: quality("1", 5, 0.7)}, drift, {1: drift}), {1: "Lea"}
    )
    assert "<td>0</td><td>90</td>" in line and "<td>2</td><td>50</td>" in line
    assert "Lea: -20, 95 % interval -30 to -10." in dots
