"""How far labelers agree: on the order of outputs, on ratings, on yes/no flags.

"73 % agreement" means nothing without its definition: on one and the same study the rates below
differ by twenty points. Each is therefore named, carries its definition, and has three intervals:
for other labelers on these prompts, for this team on other prompts, and for both (two-way). The
paper's 72.6 % and 77.3 % (section 3.4) do not say how ties count; "strict" is nearest to them.

Legend: ``N`` observations, ``G`` prompts, ``n`` labelers, ``U`` outputs, ``Q`` pairs of labelers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import krippendorff
import numpy as np

from heedful.errors import DataError
from heedful.records import METADATA_FIELDS, Rating
from heedful.statistics.intervals import (
    MIN_LABELERS,
    Interval,
    Share,
    bootstrap,
    bootstrap_all,
    shares,
)
from heedful.statistics.pairs import (
    ALIKE,
    OPPOSITE,
    Floats,
    Ranked,
    chance_corrected,
    exact_rate,
    observe,
    stacked,
    strict_rate,
    tau_b,
    tie_discounted_rate,
    tie_rate,
)

# Below these an interval would promise what the data cannot keep: the value stands with its n.
MIN_SHARED_PROMPTS = 30
RATINGS = np.arange(1, 8)  # 1 worst to 7 best


@dataclass(frozen=True, slots=True)
class Answer:
    """One submitted ranking of a prompt's outputs, as the statistics read it.

    ``outputs`` are ids in the order in which they were shown; ``ranks`` (1 best, equal ranks are
    ties), ``lengths`` (characters) and ``ratings`` follow that order. A labeler has one answer to
    a prompt; where there are several the newest counts.
    """

    prompt: str
    labeler: str
    outputs: tuple[str, ...]
    ranks: tuple[int, ...]
    lengths: tuple[int, ...]
    ratings: tuple[Rating | None, ...]
    active_s: float | None
    submitted_s: float  # seconds since 1970

    def __post_init__(self) -> None:
        lists = {
            "outputs": len(set(self.outputs)),
            "ranks": len(self.ranks),
            "lengths": len(self.lengths),
            "ratings": len(self.ratings),
        }
        if set(lists.values()) != {len(self.outputs)}:
            found = ", ".join(f"{num} {name}" for name, num in lists.items())
            raise DataError(
                f"answer of {self.labeler!r} to prompt {self.prompt!r}: {found}; give one rank, "
                f"length and rating (or None) for each of {len(self.outputs)} different outputs"
            )
        wrong = [r.overall for r in self.ratings if r is not None and r.overall not in RATINGS]
        if wrong:
            raise DataError(
                f"answer of {self.labeler!r} to prompt {self.prompt!r}: rating {wrong[0]} is not "
                f"a whole number from 1 to 7"
            )

    def ranked(self) -> Ranked:
        """The ranking alone, by output."""
        return Ranked(self.prompt, self.labeler, dict(zip(self.outputs, self.ranks, strict=True)))


class Definition(NamedTuple):
    """A rate: how it is made of mean counts, and the words that stand beside every number of it."""

    statistic: Callable[[Floats], Floats]
    words: str


RATES = {
    "strict": Definition(
        strict_rate, "same order, over the pairs of outputs that both labelers ordered strictly"
    ),
    "exact": Definition(
        exact_rate, "the same of better, tied and worse, over all pairs of outputs"
    ),
    "tie_discounted": Definition(
        tie_discounted_rate, "as exact, with half a point where only one of the two labelers tied"
    ),
    "chance_corrected": Definition(
        chance_corrected, "exact, less what two labelers with this tie rate share by chance"
    ),
    "tau_b": Definition(
        lambda means: means[:, -1],
        "mean Kendall tau-b over prompts and pairs of labelers, where neither tied everything",
    ),
}


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate of agreement with its definition and three intervals around the same value."""

    name: str
    definition: str
    by_labeler: Interval
    by_prompt: Interval
    two_way: Interval

    @property
    def value(self) -> float:
        """The rate itself, NaN where nothing defines it."""
        return self.by_prompt.value


@dataclass(frozen=True, slots=True)
class RankingAgreement:
    """The rates by name, with what they rest on."""

    rates: dict[str, Rate]
    tie_rate: float
    num_observations: int  # (prompt, two labelers)
    num_prompts: int
    num_labelers: int
    num_output_pairs: int
    num_strict_pairs: int
    num_tau_undefined: int  # observations in which a labeler tied everything
    suppressed: tuple[str, ...]  # why an interval has no bounds


def ranking_agreement(
    answers: Sequence[Answer], *, num_samples: int = 2000, seed: int = 0
) -> RankingAgreement | None:
    """Every rate of ``RATES`` over all prompts with two labelers; None where there is none.

    Pairs of outputs count equally, so a prompt of nine outputs weighs more than one of four.
    Leave gold and constant items out: they were chosen, and everyone answers them.
    """
    found = observe([answer.ranked() for answer in newest(answers)])
    if len(found.prompts) == 0:
        return None
    taus = tau_b(found.counts)
    columns = np.column_stack([found.counts, taus])
    num_prompts, num_labelers = len(np.unique(found.prompts)), len(np.unique(found.labelers))
    clusterings = {
        "by_labeler": [found.labelers],
        "by_prompt": [found.prompts],
        "two_way": [found.prompts, found.labelers],
    }
    statistics = {name: rate.statistic for name, rate in RATES.items()}
    suppressed = _too_few(num_prompts, num_labelers)
    intervals = {
        way: bootstrap_all(columns, by, statistics, num_samples=num_samples, seed=seed)
        for way, by in clusterings.items()
    }
    for way in suppressed:
        intervals[way] = {name: without_bounds(one) for name, one in intervals[way].items()}
    return RankingAgreement(
        {
            name: Rate(name, rate.words, **{way: intervals[way][name] for way in clusterings})
            for name, rate in RATES.items()
        },
        tie_rate=float(tie_rate(found.counts.sum(axis=0, keepdims=True))[0]),
        num_observations=len(found.prompts),
        num_prompts=num_prompts,
        num_labelers=num_labelers,
        num_output_pairs=int(found.counts.sum()),
        num_strict_pairs=int(found.counts[:, [ALIKE, OPPOSITE]].sum()),
        num_tau_undefined=int(np.isnan(taus).sum()),
        suppressed=tuple(dict.fromkeys(suppressed.values())),
    )


def _too_few(num_prompts: int, num_labelers: int) -> dict[str, str]:
    """Why each interval that cannot be trusted is not given."""
    if num_prompts < MIN_SHARED_PROMPTS:
        why = f"{num_prompts} shared prompts: an interval needs {MIN_SHARED_PROMPTS}"
        return dict.fromkeys(("by_labeler", "by_prompt", "two_way"), why)
    if num_labelers < MIN_LABELERS:
        why = f"{num_labelers} labelers: an interval for other labelers needs {MIN_LABELERS}"
        return dict.fromkeys(("by_labeler", "two_way"), why)
    return {}


def without_bounds(interval: Interval) -> Interval:
    """The value alone."""
    return Interval(interval.value, math.nan, math.nan)


def newest(answers: Sequence[Answer]) -> list[Answer]:
    """The newest answer of each labeler to each prompt."""
    in_order = sorted(answers, key=lambda answer: answer.submitted_s)
    return list({(answer.prompt, answer.labeler): answer for answer in in_order}.values())


@dataclass(frozen=True, slots=True)
class Concordance:
    """The mean of Kendall's W (0 to 1) over prompts that three labelers or more ranked whole."""

    interval: Interval  # over prompts
    num_prompts: int
    num_undefined: int  # prompts in which every labeler tied everything


def concordance(
    answers: Sequence[Answer], *, num_samples: int = 2000, seed: int = 0
) -> Concordance | None:
    """Kendall's W with its correction for ties; None where no prompt defines it.

    ``W = 12 S / (n^2 (U^3 - U) - n T)``: S the squared deviations of the outputs' rank sums, T the
    sum of ``t^3 - t`` over each labeler's groups of t tied outputs (Kendall 1948).
    """
    found = [np.zeros(0)]
    for _, ranks in stacked([answer.ranked() for answer in newest(answers)]):
        num_labelers, num_outputs = ranks.shape[1:]
        if num_labelers < 3 or num_outputs < 2:
            continue
        whole = ranks[~np.isnan(ranks).any(axis=(1, 2))]  # (G, n, U)
        below = (whole[..., :, None] > whole[..., None, :]).sum(axis=-1)
        tied = (whole[..., :, None] == whole[..., None, :]).sum(axis=-1)  # itself included
        sums = (below + (tied + 1) / 2).sum(axis=1)  # (G, U): of middle ranks
        deviations = ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        ties = (tied**2 - 1).sum(axis=(1, 2))
        most = num_labelers**2 * (num_outputs**3 - num_outputs) - num_labelers * ties
        with np.errstate(invalid="ignore"):
            found.append(12 * deviations / most)
    values = np.concatenate(found)
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return None
    mean = bootstrap(known, np.arange(len(known)), num_samples=num_samples, seed=seed)
    if len(known) < MIN_SHARED_PROMPTS:
        mean = without_bounds(mean)
    return Concordance(mean, len(known), len(values) - len(known))


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's alpha, NaN with the reason where it is undefined."""

    value: float
    num_items: int  # outputs with two answers or more
    num_answers: int  # to these
    undefined: str | None


def krippendorff_alpha(counts: Floats, level: Literal["nominal", "ordinal"]) -> Alpha:
    """Alpha of ``counts`` (items, values): how many labelers gave an item each value, in order."""
    pairable = counts[counts.sum(axis=1) >= 2]
    num_items, num_answers = len(pairable), int(pairable.sum())
    if num_items == 0:
        return Alpha(math.nan, 0, 0, "no output has two answers")
    if (pairable.sum(axis=0) > 0).sum() < 2:
        return Alpha(math.nan, num_items, num_answers, "all answers equal")
    value = krippendorff.alpha(value_counts=pairable, level_of_measurement=level)
    return Alpha(float(value), num_items, num_answers, None)


@dataclass(frozen=True, slots=True)
class PairKappa:
    """Cohen's kappa of two labelers with quadratic weights; NaN where both gave one same rating."""

    labelers: tuple[str, str]
    value: float
    num_outputs: int


@dataclass(frozen=True, slots=True)
class RatingAgreement:
    """How far ratings from 1 to 7 agree: over all labelers, and pair by pair."""

    alpha: Alpha  # ordinal
    kappas: tuple[PairKappa, ...]  # the pairs with most outputs in common first


def rating_agreement(answers: Sequence[Answer]) -> RatingAgreement:
    """Ordinal alpha of the overall ratings, and the weighted kappa of every pair of labelers."""
    items = _items(answers, lambda rating: rating.overall)
    counts = [np.zeros((0, len(RATINGS)))]
    for _, ratings in stacked(items):
        given = (ratings[..., None] == RATINGS).sum(axis=1, dtype=float)  # (G, U, 7)
        counts.append(given.reshape(-1, len(RATINGS)))
    alpha = krippendorff_alpha(np.concatenate(counts), "ordinal")
    return RatingAgreement(alpha, _pair_kappas(items))


def _pair_kappas(items: Sequence[Ranked]) -> tuple[PairKappa, ...]:
    """Quadratic-weighted kappas; chance puts the squared distance of two ratings at
    ``var a + var b + (mean a - mean b)^2``, so that sums over outputs are all that is needed."""
    who = np.array([item.labeler for item in items], dtype=np.str_)
    names, labeler = np.unique(who, return_inverse=True)
    pairs, firsts, seconds = [np.zeros((2, 0), int)], [np.zeros(0)], [np.zeros(0)]
    for members, ratings in stacked(items):
        i, j = np.triu_indices(ratings.shape[1], 1)
        first, second = ratings[:, i], ratings[:, j]  # (G, Q, U)
        left, right = labeler[members][:, i], labeler[members][:, j]  # (G, Q)
        swapped = (left > right)[..., None]
        first, second = np.where(swapped, second, first), np.where(swapped, first, second)
        both = ~np.isnan(first) & ~np.isnan(second)
        pair = np.sort(np.stack([left, right]), axis=0)  # (2, G, Q)
        pairs.append(np.repeat(pair.reshape(2, -1), both.sum(axis=-1).ravel(), axis=1))
        firsts.append(first[both])
        seconds.append(second[both])
    a, b = np.concatenate(firsts), np.concatenate(seconds)
    different, place = np.unique(np.concatenate(pairs, axis=1), axis=1, return_inverse=True)
    num = np.bincount(place, minlength=different.shape[1])

    def mean(values: Floats) -> Floats:
        return np.bincount(place, values, different.shape[1]) / num

    chance = mean(a * a) + mean(b * b) - 2 * mean(a) * mean(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = 1 - mean((a - b) ** 2) / np.where(chance > 1e-12, chance, np.nan)
    one, other = names[different]
    return tuple(
        PairKappa((str(one[k]), str(other[k])), float(values[k]), int(num[k]))
        for k in np.argsort(-num, kind="stable")
    )


@dataclass(frozen=True, slots=True)
class FlagAgreement:
    """How far answers to one yes/no question agree.

    ``raw`` is high for every rare flag, whoever answers. ``positive`` looks at the yeses: how
    often another labeler says yes too where one did (``2 yy / (2 yy + yn)``); None without a yes.
    """

    flag: str
    alpha: Alpha  # nominal
    raw: Share
    positive: Share | None
    num_yes: int


def flag_agreement(answers: Sequence[Answer]) -> tuple[FlagAgreement, ...]:
    """Agreement on every flag that two labelers answered of one output, in the order of Table 3.

    The shares run over pairs of labelers; their intervals are over prompts.
    """
    order = {flag: place for place, flag in enumerate(METADATA_FIELDS)}
    asked = {f for a in answers for rating in a.ratings if rating is not None for f in rating.flags}
    found = []
    for flag in sorted(asked, key=lambda flag: (order.get(flag, len(order)), flag)):
        one = _flag_agreement(flag, _items(answers, lambda rating, f=flag: rating.flags.get(f)))
        if one is not None:
            found.append(one)
    return tuple(found)


def _flag_agreement(flag: str, items: Sequence[Ranked]) -> FlagAgreement | None:
    counts, prompts = [np.zeros((0, 2))], [np.zeros(0, int)]
    for members, answers in stacked(items):
        yes, no = (answers == 1).sum(axis=1), (answers == 0).sum(axis=1)  # (G, U)
        counts.append(np.stack([no, yes], axis=-1).reshape(-1, 2).astype(float))
        prompts.append(np.repeat(members[:, 0], answers.shape[2]))
    every, prompt = np.concatenate(counts), np.concatenate(prompts)
    no, yes = every.T
    both_yes, mixed = yes * (yes - 1) / 2, yes * no
    pairs = both_yes + mixed + no * (no - 1) / 2
    raw = shares(pairs - mixed, pairs, prompt)
    if not raw:
        return None
    return FlagAgreement(
        flag,
        krippendorff_alpha(every, "nominal"),
        raw[""],
        shares(2 * both_yes, 2 * both_yes + mixed, prompt).get(""),
        num_yes=int(yes[pairs > 0].sum()),
    )


def _items(answers: Sequence[Answer], value: Callable[[Rating], int | None]) -> list[Ranked]:
    """A value of every rating that has one, by output, in place of the ranks."""
    found = []
    for answer in newest(answers):
        rated = zip(answer.outputs, answer.ratings, strict=True)
        values = {output: value(rating) for output, rating in rated if rating is not None}
        known = {output: int(given) for output, given in values.items() if given is not None}
        found.append(Ranked(answer.prompt, answer.labeler, known))
    return [item for item in found if item.ranks]
