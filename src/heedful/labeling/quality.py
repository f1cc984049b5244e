"""The work of each labeler in figures, drift over time, and what a screening test says.

Every figure is a share with its interval and its n: a labeler with twelve answers is not yet good
or bad. Intervals are by formula over prompts, so that a page with every labeler stays quick; they
speak of this labeler among these colleagues, on other prompts.

Legend: ``A`` answers, ``K`` outputs of an answer, ``P`` pairs of outputs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.labeling.agreement import (
    MIN_SHARED_PROMPTS,
    Answer,
    newest,
    without_bounds,
)
from heedful.statistics.formulas import Share, mean_interval, shares
from heedful.statistics.intervals import Interval, bootstrap
from heedful.statistics.pairs import (
    ALIKE,
    BOTH_TIED,
    FIRST_TIED,
    OPPOSITE,
    SECOND_TIED,
    Floats,
    Observations,
    Ranked,
    against_reference,
    compare_signs,
    observe,
    stacked,
)

WEEK_S = 7 * 24 * 3600.0
# Ranks of a prompt's outputs as researchers gave them: prompt -> output -> rank.
Reference = Mapping[str, Mapping[Any, int]]


@dataclass(frozen=True, slots=True)
class LabelerQuality:
    """One labeler's figures; a share is None where nothing defines it.

    The three rates are over all observations of this labeler with a colleague, and without bounds
    below 30 shared prompts. ``rest_strict`` is the strict rate among the others, this labeler left
    out. Position bias shows where ``first_ranked_best`` lies above ``first_by_chance``; length bias
    where ``longer_preferred`` lies off that of the team, since longer may well be better.
    """

    labeler: str
    num_answers: int
    num_shared_prompts: int
    strict: Share | None
    exact: Share | None
    tie_discounted: Share | None
    rest_strict: float
    gold_accuracy: Share | None  # of the pairs that gold orders strictly; a tie is half right
    ties: Share | None  # of all pairs of outputs
    first_ranked_best: Share | None  # shared where several are best
    first_by_chance: float  # the mean of 1 / K
    longer_preferred: Share | None  # of the pairs ordered strictly, of different lengths
    contradictions: Share | None  # pairs whose ratings are in the opposite order of their ranks
    median_active_s: float  # per answer; NaN where none was timed
    active_s: float  # in all


def labeler_quality(
    answers: Sequence[Answer],
    *,
    gold: Reference | None = None,
    constant: Collection[str] = (),
) -> dict[str, LabelerQuality]:
    """The figures of every labeler, by name in order.

    Prompts with a gold ranking and the ``constant`` ones are left out of the agreement between
    labelers: they were chosen, and everyone answers them.
    """
    kept = newest(answers)
    gold = gold or {}
    special = {*gold, *constant}
    found = observe([answer.ranked() for answer in kept if answer.prompt not in special])
    return quality_of(work_of(kept), found, gold_accuracy(kept, gold))


@dataclass(frozen=True, slots=True)
class Work:
    """What answers (A,) say of their labelers' habits, whatever others have answered."""

    prompts: NDArray[Any]
    labelers: NDArray[Any]
    num_outputs: Floats
    active_s: Floats  # NaN where it is not known
    habits: Floats  # (A, 4, 2): hits beside items, in the order of HABITS


def work_of(answers: Sequence[Answer]) -> Work:
    """The habits of each answer."""
    return Work(
        np.array([answer.prompt for answer in answers], dtype=np.str_),
        np.array([answer.labeler for answer in answers], dtype=np.str_),
        np.array([len(answer.outputs) for answer in answers], dtype=float),
        np.array([np.nan if a.active_s is None else a.active_s for a in answers], dtype=float),
        _habits(answers),
    )


def quality_of(
    work: Work, found: Observations, right: Mapping[str, Share]
) -> dict[str, LabelerQuality]:
    """The figures of every labeler from their habits, what was observed of two of them each, and
    their gold accuracy."""
    agreed = _agreement(found)
    habits = {
        name: shares(
            work.habits[:, place, 0], work.habits[:, place, 1], work.prompts, work.labelers
        )
        for place, name in enumerate(HABITS)
    }
    names, labeler = np.unique(work.labelers, return_inverse=True)
    chance = np.bincount(labeler, 1 / work.num_outputs) / np.bincount(labeler)
    number_of = {str(name): number for number, name in enumerate(names.tolist())}
    quality = {}
    for name in sorted(number_of):
        own = labeler == number_of[name]
        times = work.active_s[own & ~np.isnan(work.active_s)]
        quality[name] = LabelerQuality(
            name,
            num_answers=int(own.sum()),
            num_shared_prompts=agreed.num_prompts.get(name, 0),
            rest_strict=agreed.rest_strict.get(name, math.nan),
            gold_accuracy=right.get(name),
            first_by_chance=float(chance[number_of[name]]),
            median_active_s=float(np.median(times)) if len(times) else math.nan,
            active_s=float(times.sum()),
            **{rate: by_name.get(name) for rate, by_name in agreed.rates.items()},
            **{habit: by_name.get(name) for habit, by_name in habits.items()},
        )
    return quality


@dataclass(frozen=True, slots=True)
class _Agreed:
    """By labeler: the three rates, the prompts shared, the strict rate of the others."""

    rates: dict[str, dict[str, Share]]
    num_prompts: dict[str, int]
    rest_strict: dict[str, float]


def _agreement(found: Observations) -> _Agreed:
    # Each observation is one of either labeler.
    labelers = np.concatenate([found.labelers[:, 0], found.labelers[:, 1]])
    prompts = np.concatenate([found.prompts, found.prompts])
    counts = np.concatenate([found.counts, found.counts])
    alike, strict = counts[:, ALIKE], counts[:, ALIKE] + counts[:, OPPOSITE]
    exact, every = alike + counts[:, BOTH_TIED], counts.sum(axis=1)
    half = 0.5 * (counts[:, FIRST_TIED] + counts[:, SECOND_TIED])
    rates = {
        "strict": _bounded(shares(alike, strict, prompts, labelers)),
        "exact": _bounded(shares(exact, every, prompts, labelers)),
        "tie_discounted": _bounded(shares(exact + half, every, prompts, labelers)),
    }
    num_prompts = {
        name: one.num_clusters for name, one in shares(every, every, prompts, labelers).items()
    }
    names, place = np.unique(labelers, return_inverse=True)
    own_alike = np.bincount(place, alike, len(names))
    own_strict = np.bincount(place, strict, len(names))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Halves, because the rows above hold each observation twice.
        rest = (alike.sum() / 2 - own_alike) / (strict.sum() / 2 - own_strict)
    return _Agreed(
        rates, num_prompts, dict(zip(map(str, names.tolist()), rest.tolist(), strict=True))
    )


def _bounded(found: dict[str, Share]) -> dict[str, Share]:
    """The shares, without bounds where they rest on too few prompts."""
    return {
        name: share
        if share.num_clusters >= MIN_SHARED_PROMPTS
        else replace(share, interval=without_bounds(share.interval))
        for name, share in found.items()
    }


def gold_accuracy(answers: Iterable[Answer], gold: Reference) -> dict[str, Share]:
    """By labeler: how far the answers to gold prompts agree with gold."""
    own = [(answer.labeler, answer.ranked()) for answer in answers if answer.prompt in gold]
    return _gold_accuracy(own, gold)


def _gold_accuracy(rankings: Sequence[tuple[str, Ranked]], gold: Reference) -> dict[str, Share]:
    """By name: the share of the pairs that gold orders strictly which are in that order."""
    counts = against_reference([ranking for _, ranking in rankings], gold)
    strict = counts[:, [ALIKE, OPPOSITE, FIRST_TIED]].sum(axis=1)  # only the labeler may tie
    right = counts[:, ALIKE] + 0.5 * counts[:, FIRST_TIED]
    prompts = np.array([ranking.prompt for _, ranking in rankings], dtype=np.str_)
    names = np.array([name for name, _ in rankings], dtype=np.str_)
    return shares(right, strict, prompts, names)


def _habits(answers: Sequence[Answer]) -> Floats:
    """Hits beside items (A, 4, 2) of each habit, in the order of HABITS."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for place, answer in enumerate(answers):
        by_size[len(answer.outputs)].append(place)
    columns = {name: np.zeros((len(answers), 2)) for name in HABITS}
    for size, places in by_size.items():
        group = [answers[place] for place in places]
        ranks = np.array([answer.ranks for answer in group], dtype=float)  # (A, K)
        lengths = np.array([answer.lengths for answer in group], dtype=float)
        ratings = np.array(
            [[math.nan if r is None else r.overall for r in answer.ratings] for answer in group]
        )
        a, b = np.triu_indices(size, 1)
        worse = np.sign(ranks[:, a] - ranks[:, b])  # (A, P): 1 where the first is worse
        longer = np.sign(lengths[:, a] - lengths[:, b])
        rated_higher = np.nan_to_num(np.sign(ratings[:, a] - ratings[:, b]))
        best = ranks == ranks.min(axis=1, keepdims=True)
        one = np.ones(len(group))
        columns["ties"][places] = _pair(worse == 0, np.ones_like(worse, dtype=bool))
        columns["first_ranked_best"][places] = np.stack([best[:, 0] / best.sum(axis=1), one], 1)
        columns["longer_preferred"][places] = _pair(worse * longer < 0, worse * longer != 0)
        columns["contradictions"][places] = _pair(
            worse * rated_higher > 0, worse * rated_higher != 0
        )
    return np.stack(list(columns.values()), axis=1)


HABITS = ("ties", "first_ranked_best", "longer_preferred", "contradictions")


def _pair(hits: NDArray[np.bool_], items: NDArray[np.bool_]) -> Floats:
    """Hits beside items of each answer (A, 2), from pairs of outputs (A, P)."""
    return np.stack([hits.sum(axis=1), items.sum(axis=1)], axis=1, dtype=float)


@dataclass(frozen=True, slots=True)
class Week:
    """The strict agreement with the others on constant items answered in one week."""

    start_s: float  # seconds since 1970
    agreement: Share


@dataclass(frozen=True, slots=True)
class Drift:
    """Agreement week by week, and its slope per week: a slope below 0 is a labeler who drifts."""

    weeks: tuple[Week, ...]
    slope: Interval  # over prompts; without bounds below 30


def drift(
    answers: Sequence[Answer],
    constant: Collection[str],
    *,
    labeler: str | None = None,
    week_s: float = WEEK_S,
    num_samples: int = 2000,
    seed: int = 0,
) -> Drift | None:
    """The drift of one labeler (of all where None) on ``constant`` items; None without any.

    An answer is compared with the order of the others' mean ranks: items that everyone answers,
    early or late, measure the same thing every week (Stiennon et al. 2020). Outputs that not
    all of them ranked are left out.
    """
    fixed = set(constant)
    kept = [answer for answer in newest(answers) if answer.prompt in fixed]
    counts = _against_the_others([answer.ranked() for answer in kept])
    mine = np.array([labeler in (None, answer.labeler) for answer in kept], dtype=bool)
    return _drift(kept, counts, mine, week_s, num_samples, seed)


def drifts(
    answers: Sequence[Answer], constant: Collection[str], *, num_samples: int = 2000, seed: int = 0
) -> dict[str, Drift]:
    """``drift`` of every labeler who has one, by name."""
    fixed = set(constant)
    kept = [answer for answer in newest(answers) if answer.prompt in fixed]
    counts = _against_the_others([answer.ranked() for answer in kept])
    who = np.array([answer.labeler for answer in kept], dtype=np.str_)
    found = {
        str(name): _drift(kept, counts, who == name, WEEK_S, num_samples, seed)
        for name in np.unique(who)
    }
    return {name: one for name, one in found.items() if one is not None}


def _drift(
    kept: Sequence[Answer],
    counts: Floats,
    mine: NDArray[np.bool_],
    week_s: float,
    num_samples: int,
    seed: int,
) -> Drift | None:
    strict = counts[:, ALIKE] + counts[:, OPPOSITE]
    chosen = np.flatnonzero(mine & (strict > 0))
    if len(chosen) == 0:
        return None
    alike, strict = counts[chosen, ALIKE], strict[chosen]
    prompts = np.array([answer.prompt for answer in kept])[chosen]
    times = np.array([answer.submitted_s for answer in kept])[chosen]
    start = min(answer.submitted_s for answer in kept)
    week = np.floor((times - start) / week_s)
    found = shares(alike, strict, prompts, week.astype(int))
    in_order = sorted((int(number), share) for number, share in found.items())
    weeks = tuple(Week(start + number * week_s, share) for number, share in in_order)
    columns = np.stack([strict, strict * week, strict * week**2, alike, alike * week], axis=1)
    slope = bootstrap(columns, prompts, statistic=_slope, num_samples=num_samples, seed=seed)
    if len(np.unique(prompts)) < MIN_SHARED_PROMPTS:
        slope = without_bounds(slope)
    return Drift(weeks, slope)


def _slope(means: Floats) -> Floats:
    """The least-squares slope of a share, from the means of n, n x, n x^2, hits, hits x, (S,)."""
    n, x, xx, y, xy = means.T
    spread = n * xx - x * x
    return np.where(spread > 1e-12, (n * xy - x * y) / spread, np.nan)


def _against_the_others(rankings: Sequence[Ranked]) -> Floats:
    """The counts (A, 5) of each ranking against the mean ranks of the prompt's other rankings."""
    counts = np.zeros((len(rankings), 5))
    for members, ranks in stacked(rankings):
        others = ranks.sum(axis=1, keepdims=True) - ranks  # (G, n, K): sums order as means do
        a, b = np.triu_indices(ranks.shape[2], 1)
        own, theirs = (np.sign(table[..., a] - table[..., b]) for table in (ranks, others))
        counts[members] = compare_signs(own, theirs)
    return counts


@dataclass(frozen=True, slots=True)
class Criterion:
    """One measured criterion of the screening test beside its soft cut-off."""

    name: str
    interval: Interval
    cutoff: float
    num_items: int

    @property
    def meets(self) -> bool:
        """Whether the value reaches the cut-off."""
        return self.interval.value >= self.cutoff

    @property
    def certain(self) -> bool:
        """Whether the whole interval lies on one side: more items would hardly change it."""
        return self.interval.low >= self.cutoff or self.interval.high < self.cutoff


# Appendix B.1 of the paper; soft: people decide, on an anonymised view.
CUTOFFS = {"sensitive_speech": 0.75, "ranking": 0.75, "demonstration": 6.0}


def screening(
    flags: Sequence[tuple[bool, bool]],
    rankings: Sequence[Ranked],
    reference: Reference,
    scores: Sequence[float],
) -> dict[str, Criterion]:
    """The three measured criteria of appendix B.1, by name; one without items is left out.

    ``flags``: (the applicant's, the researchers') sensitive-speech answers, share of the same.
    ``rankings`` against ``reference``: of the pairs that researchers order strictly, those in the
    same order, a tie half. ``scores``: the demonstrations' ratings from 1 to 7, their mean.
    Seventy-five percent of twenty items is known to 19 points either way: ask sixty flags or more,
    and rankings of a hundred pairs.
    """
    found = {}
    same = np.array([own == true for own, true in flags], dtype=float)
    if len(same):
        share = shares(same, np.ones(len(same)), np.arange(len(same)))[""]
        found["sensitive_speech"] = (share.interval, len(same))
    ranked = _gold_accuracy([("", ranking) for ranking in rankings], reference).get("")
    if ranked:
        found["ranking"] = (ranked.interval, int(ranked.num_items))
    if len(scores):
        mean = mean_interval(scores)
        if mean.low < mean.high:
            mean = Interval(mean.value, max(mean.low, 1.0), min(mean.high, 7.0))
        else:  # few scores, all the same: how far they scatter is not known
            mean = without_bounds(mean)
        found["demonstration"] = (mean, len(scores))
    return {
        name: Criterion(name, interval, CUTOFFS[name], num_items)
        for name, (interval, num_items) in found.items()
    }
