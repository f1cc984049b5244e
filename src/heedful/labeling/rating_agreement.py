"""How far labelers agree on ratings from 1 to 7 and on yes/no flags.

Legend: ``N`` outputs, ``G`` prompts, ``n`` labelers, ``U`` outputs of a prompt, ``Q`` pairs of
labelers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heedful.labeling.agreement import RATINGS, Answer, newest
from heedful.records import METADATA_FIELDS, Rating
from heedful.statistics.formulas import Share, shares
from heedful.statistics.pairs import Floats, Ranked, stacked


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's alpha, NaN with the reason where it is undefined."""

    value: float
    num_items: int  # outputs with two answers or more
    num_answers: int  # to these
    undefined: str | None


def krippendorff_alpha(counts: Floats, level: Literal["nominal", "ordinal"]) -> Alpha:
    """Alpha of ``counts`` (items, values): how many labelers gave an item each value, in order.

    ``1 - D_o / D_e`` of observed and expected squared distances (Krippendorff 2011).
    """
    pairable = counts[counts.sum(axis=1) >= 2]
    num_items, num_answers = len(pairable), int(pairable.sum())
    if num_items == 0:
        return Alpha(math.nan, 0, 0, "no output has two answers")
    if (pairable.sum(axis=0) > 0).sum() < 2:
        return Alpha(math.nan, num_items, num_answers, "all answers equal")
    # Coincidences (V, V): over items of m answers the ordered pairs of answers, by 1 / (m - 1).
    weighted = pairable / (pairable.sum(axis=1, keepdims=True) - 1)
    coincidences = weighted.T @ pairable - np.diag(weighted.sum(axis=0))
    totals = coincidences.sum(axis=0)
    distances = _distances(totals, level)
    observed = (coincidences * distances).sum()
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1)
    return Alpha(float(1 - observed / expected), num_items, num_answers, None)


def _distances(totals: Floats, level: Literal["nominal", "ordinal"]) -> Floats:
    """The squared distance of every two values (V, V), ``totals`` (V,) being how often each came.

    Ordinal: the square of how many answers lie from one value to the other, the two themselves
    counted half.
    """
    if level == "nominal":
        return 1.0 - np.eye(len(totals))
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


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
    items = rated_items(answers, lambda rating: rating.overall)
    _, counts = rating_counts(items)
    return RatingAgreement(krippendorff_alpha(counts, "ordinal"), _pair_kappas(items))


def rating_counts(items: Sequence[Ranked]) -> tuple[NDArray[np.intp], Floats]:
    """(place of one of its ratings (N,), how many gave it 1 to 7 (N, 7)) of every output."""
    places, counts = [np.zeros(0, dtype=np.intp)], [np.zeros((0, len(RATINGS)))]
    for members, ratings in stacked(items):
        given = (ratings[..., None] == RATINGS).sum(axis=1, dtype=float)  # (G, U, 7)
        counts.append(given.reshape(-1, len(RATINGS)))
        places.append(np.repeat(members[:, 0], ratings.shape[2]))
    return np.concatenate(places), np.concatenate(counts)


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
    asked = {f for a in answers for rating in a.ratings if rating is not None for f in rating.flags}
    found = []
    for flag in in_table_order(asked):
        items = rated_items(answers, lambda rating, f=flag: rating.flags.get(f))
        one = flag_agreement_of(flag, *flag_counts(items))
        if one is not None:
            found.append(one)
    return tuple(found)


def in_table_order(flags: Iterable[str]) -> list[str]:
    """The flags in the order of the paper's Table 3, others after them."""
    order = {flag: place for place, flag in enumerate(METADATA_FIELDS)}
    return sorted(flags, key=lambda flag: (order.get(flag, len(order)), flag))


def flag_counts(items: Sequence[Ranked]) -> tuple[NDArray[np.intp], Floats]:
    """(place of one of its answers (N,), how many said no and yes (N, 2)) of every output."""
    places, counts = [np.zeros(0, dtype=np.intp)], [np.zeros((0, 2))]
    for members, answers in stacked(items):
        yes, no = (answers == 1).sum(axis=1), (answers == 0).sum(axis=1)  # (G, U)
        counts.append(np.stack([no, yes], axis=-1).reshape(-1, 2).astype(float))
        places.append(np.repeat(members[:, 0], answers.shape[2]))
    return np.concatenate(places), np.concatenate(counts)


def flag_agreement_of(flag: str, prompts: NDArray[Any], counts: Floats) -> FlagAgreement | None:
    """The agreement on a flag from ``counts`` (N, 2) of no and yes for each output of prompts (N,).

    None where no output has two answers.
    """
    no, yes = counts.T
    both_yes, mixed = yes * (yes - 1) / 2, yes * no
    pairs = both_yes + mixed + no * (no - 1) / 2
    raw = shares(pairs - mixed, pairs, prompts)
    if not raw:
        return None
    return FlagAgreement(
        flag,
        krippendorff_alpha(counts, "nominal"),
        raw[""],
        shares(2 * both_yes, 2 * both_yes + mixed, prompts).get(""),
        num_yes=int(yes[pairs > 0].sum()),
    )


def rated_items(answers: Sequence[Answer], value: Callable[[Rating], int | None]) -> list[Ranked]:
    """A value of every rating that has one, by output, in place of the ranks."""
    found = []
    for answer in newest(answers):
        rated = zip(answer.outputs, answer.ratings, strict=True)
        values = {output: value(rating) for output, rating in rated if rating is not None}
        known = {output: int(given) for output, given in values.items() if given is not None}
        found.append(Ranked(answer.prompt, answer.labeler, known))
    return [item for item in found if item.ranks]
