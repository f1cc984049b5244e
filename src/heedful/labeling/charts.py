"""The charts of researchers' pages: SVG drawn on the server, each with its numbers as a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from heedful.labeling.figures import Figures
from heedful.labeling.quality import Drift, LabelerQuality
from heedful.plots import Dot, Line, bar_chart, dot_plot, line_chart, percent_text
from heedful.statistics.formulas import Share
from heedful.statistics.intervals import Interval
from heedful.store.pools import Progress
from heedful.store.prompt_summary import PromptSummary

# Labelers in one chart, those with most answers first; the table beside it has all of them.
MOST_LABELERS = 40
WEEK_DAYS = 7.0
Names = Mapping[int, str]


def throughput(days: Sequence[tuple[float, int]]) -> list[Markup]:
    """Submissions day by day; ``days`` are (start, number), the newest first."""
    bars = [(time.strftime("%m-%d", time.gmtime(day)), float(n)) for day, n in reversed(days)]
    return _safe(bar_chart("Submitted by day", bars, x_label="submissions (UTC days)"))


def queue(progress: Sequence[Progress]) -> list[Markup]:
    """What is done and what is still wanted of every kind of task."""
    bars = [
        (f"{one.kind}: {what}", float(number))
        for one in progress
        for what, number in (("answers", one.num_answers), ("wanted", one.num_open_slots))
    ]
    return _safe(bar_chart("Answers given, and still wanted", bars, x_label="answers"))


def of_labelers(figures: Figures, names: Names) -> list[Markup]:
    """Agreement, gold, ties, bias and drift of every labeler, each with its interval."""
    most = sorted(figures.quality, key=lambda one: -figures.quality[one].num_answers)
    shown = {number: figures.quality[number] for number in most[:MOST_LABELERS]}
    by_chance = [one.first_by_chance for one in shown.values()]
    all_strict = None
    if figures.agreement is not None:
        all_strict = figures.agreement.rates["strict"].value
    kinds: list[tuple[str, str, Callable[[LabelerQuality], Share | None], float | None]] = [
        ("Agreement, strict", "dashed: of all labelers", lambda q: q.strict, all_strict),
        ("Gold", "share of gold's pairs in gold's order", lambda q: q.gold_accuracy, None),
        ("Ties", "share of pairs of outputs", lambda q: q.ties, None),
        (
            "Position: first shown is best",
            "dashed: by chance",
            lambda q: q.first_ranked_best,
            sum(by_chance) / len(by_chance) if by_chance else None,
        ),
        (
            "Length: longer preferred",
            "share of pairs of different length; dashed: one half",
            lambda q: q.longer_preferred,
            0.5,
        ),
    ]
    plots = [
        dot_plot(
            title,
            [_dot(names, number, share) for number, one in shown.items() if (share := of(one))],
            x_label=label,
            reference=reference,
            limits=(0.0, 1.0),
            format=percent_text,
        )
        for title, label, of, reference in kinds
    ]
    return _safe(*plots, *_drift(figures, names))


def _drift(figures: Figures, names: Names) -> list[str]:
    """Agreement on constant tasks week by week, and the slope of every labeler."""
    if figures.drift is None:
        return []
    slopes = [
        Dot(_name(names, number), *_bounds(one.slope, scale=100.0))
        for number, one in list(figures.drifts.items())[:MOST_LABELERS]
    ]
    return [
        line_chart(
            "Drift: constant tasks over time",
            [_weeks(figures.drift)],
            x_label="weeks since the first answer",
            y_label="agreement with the others, %",
        ),
        dot_plot(
            "Drift by labeler", slopes, x_label="points a week; dashed: no drift", reference=0.0
        ),
    ]


def _weeks(drift: Drift) -> Line:
    start = drift.weeks[0].start_s
    xs = [(week.start_s - start) / (WEEK_DAYS * 24 * 3600) for week in drift.weeks]
    return Line("all labelers", xs, [100 * week.agreement.interval.value for week in drift.weeks])


def of_prompts(found: PromptSummary, words: Mapping[str, str]) -> list[Markup]:
    """Use cases, and flags that were answered with yes; ``words`` are what flags say on a page."""
    cases = [(name.replace("_", " "), float(n)) for name, n in found.use_cases.items()]
    flags = [(words.get(flag, flag), float(yes)) for flag, yes, _ in found.flags if yes]
    return _safe(
        bar_chart("Use cases", cases, x_label="answers that name it"),
        bar_chart("Said of prompts", sorted(flags, key=lambda one: -one[1]), x_label="yeses"),
    )


def _dot(names: Names, number: int, share: Share) -> Dot:
    return Dot(_name(names, number), *_bounds(share.interval))


def _name(names: Names, number: int) -> str:
    return names.get(number, "erased")


def _bounds(one: Interval, scale: float = 1.0) -> tuple[float, float, float]:
    return scale * one.value, scale * one.low, scale * one.high


def _safe(*plots: str) -> list[Markup]:
    """The plots that are not empty; they escape their own text."""
    return [Markup(plot) for plot in plots if plot]
