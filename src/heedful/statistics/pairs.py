"""What two labelers say of the same outputs: the counts that every rate of agreement is made of.

One observation is (prompt, two labelers). Of every pair of outputs that both ranked, each labeler
says better, tied or worse; only that sign counts, so gaps between ranks carry no meaning. Five
counts then hold all there is to know, and a rate is a function of their means.

Legend: ``N`` observations, ``G`` prompts, ``n`` rankings of a prompt, ``U`` outputs, ``P`` pairs of
outputs, ``Q`` pairs of labelers, ``S`` bootstrap samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The columns of the counts of an observation.
ALIKE, OPPOSITE, FIRST_TIED, SECOND_TIED, BOTH_TIED = range(5)
# Signs held in memory at once: 4M float64 are 32 MB.
_CHUNK_ENTRIES = 4_000_000


class Ranked(NamedTuple):
    """One labeler's ranking of a prompt's outputs: the rank of each, 1 best, equal ranks are ties.

    The keys name outputs: two labelers' ranks are compared where the keys are the same.
    """

    prompt: str
    labeler: str
    ranks: Mapping[Any, int]


@dataclass(frozen=True, slots=True)
class Observations:
    """Row ``n``: on how many pairs of outputs two labelers agree, for one prompt."""

    prompts: NDArray[np.str_]  # (N,)
    labelers: NDArray[np.str_]  # (N, 2)
    places: NDArray[np.intp]  # (N, 2): which of the rankings that were handed in
    counts: Floats  # (N, 5): alike, opposite, tied by the first, by the second, by both

    def where(self, kept: NDArray[np.bool_]) -> Observations:
        """The rows that ``kept`` (N,) marks."""
        return Observations(
            self.prompts[kept], self.labelers[kept], self.places[kept], self.counts[kept]
        )


def observe(rankings: Sequence[Ranked]) -> Observations:
    """An observation for every prompt and every two labelers who ranked two outputs of it alike.

    Two rankings of one labeler are not compared. The work grows with the square of the rankings of
    a prompt, so items that everyone answers (gold) belong in ``against_reference``.
    """
    counts = [np.zeros((0, 5))]
    places = [np.zeros((0, 2), dtype=np.intp)]
    for members, ranks in stacked(rankings):
        i, j = np.triu_indices(ranks.shape[1], 1)
        a, b = np.triu_indices(ranks.shape[2], 1)
        step = max(1, _CHUNK_ENTRIES // max(1, len(i) * len(a)))
        for start in range(0, len(ranks), step):
            part = ranks[start : start + step]
            signs = np.sign(part[:, :, a] - part[:, :, b])  # (G, n, P), NaN where not ranked
            counts.append(compare_signs(signs[:, i], signs[:, j]).reshape(-1, 5))
            chosen = members[start : start + step]
            places.append(np.stack([chosen[:, i], chosen[:, j]], axis=-1).reshape(-1, 2))
    found = np.concatenate(places)
    prompts = np.array([ranking.prompt for ranking in rankings], dtype=np.str_)
    labelers = np.array([ranking.labeler for ranking in rankings], dtype=np.str_)
    every = Observations(prompts[found[:, 0]], labelers[found], found, np.concatenate(counts))
    two = every.labelers[:, 0] != every.labelers[:, 1]
    return every.where(two & (every.counts.sum(axis=1) > 0))


def against_reference(
    rankings: Sequence[Ranked], references: Mapping[str, Mapping[Any, int]]
) -> Floats:
    """The counts (N, 5) of each ranking against its prompt's reference ranking; 0 without one."""
    by_size: dict[int, tuple[list[int], list[list[list[int]]]]] = {}
    for place, ranking in enumerate(rankings):
        reference = references.get(ranking.prompt, {})
        shared = [output for output in ranking.ranks if output in reference]
        places, ranks = by_size.setdefault(len(shared), ([], []))
        places.append(place)
        ranks.append([[by_output[o] for o in shared] for by_output in (ranking.ranks, reference)])
    counts = np.zeros((len(rankings), 5))
    for size, (places, ranks) in by_size.items():
        a, b = np.triu_indices(size, 1)
        table = np.array(ranks, dtype=float)  # (N, 2, U)
        signs = np.sign(table[..., a] - table[..., b])
        counts[places] = compare_signs(signs[:, 0], signs[:, 1])
    return counts


def stacked(rankings: Sequence[Ranked]) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """Prompts of one shape at a time: (places (G, n), ranks (G, n, U), NaN where not ranked).

    Only prompts with two rankings or more; outputs stand in the order they are first met.
    """
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for place, ranking in enumerate(rankings):
        by_prompt[ranking.prompt].append(place)
    shapes: dict[tuple[int, int], tuple[list[list[int]], list[list[list[float]]]]] = {}
    for places in by_prompt.values():
        if len(places) < 2:
            continue
        outputs = dict.fromkeys(output for place in places for output in rankings[place].ranks)
        rows = [[rankings[p].ranks.get(output, np.nan) for output in outputs] for p in places]
        members, ranks = shapes.setdefault((len(places), len(outputs)), ([], []))
        members.append(places)
        ranks.append(rows)
    for members, ranks in shapes.values():
        yield np.array(members, dtype=np.intp), np.array(ranks, dtype=float)


def compare_signs(first: Floats, second: Floats) -> Floats:
    """The counts (..., 5) of signs (..., P) beside signs (..., P)."""
    both = ~(np.isnan(first) | np.isnan(second))
    product, tied, other_tied = first * second, first == 0, second == 0
    return np.stack(
        [
            product > 0,
            product < 0,
            tied & ~other_tied & both,
            other_tied & ~tied & both,
            tied & other_tied,
        ],
        axis=-1,
    ).sum(axis=-2, dtype=float)


def strict_rate(means: Floats) -> Floats:
    """Alike over pairs that both put in a strict order (Stiennon et al. 2020, C.2), (S,)."""
    alike, opposite = means[:, ALIKE], means[:, OPPOSITE]
    return alike / (alike + opposite)


def exact_rate(means: Floats) -> Floats:
    """The same of better, tied, worse, over all pairs, (S,)."""
    return (means[:, ALIKE] + means[:, BOTH_TIED]) / means[:, :5].sum(axis=1)


def tie_discounted_rate(means: Floats) -> Floats:
    """As ``exact_rate``, with half a point where just one labeler tied (Zhou et al. 2023), (S,)."""
    half = 0.5 * (means[:, FIRST_TIED] + means[:, SECOND_TIED])
    return (means[:, ALIKE] + means[:, BOTH_TIED] + half) / means[:, :5].sum(axis=1)


def tie_rate(means: Floats) -> Floats:
    """The share of pairs that a labeler ties, the mean of the two, (S,)."""
    ties = 0.5 * (means[:, FIRST_TIED] + means[:, SECOND_TIED]) + means[:, BOTH_TIED]
    return ties / means[:, :5].sum(axis=1)


def chance_corrected(means: Floats) -> Floats:
    """``(p_o - p_e) / (1 - p_e)`` of ``exact_rate``, (S,).

    Which output of a pair comes first is arbitrary, so chance is symmetric: with tie rate t,
    ``p_e = (1 - t)^2 / 2 + t^2``. Without ties it is ``2 p_o - 1``.
    """
    ties = tie_rate(means)
    chance = (1 - ties) ** 2 / 2 + ties**2
    return (exact_rate(means) - chance) / (1 - chance)


def tau_b(counts: Floats) -> Floats:
    """Kendall's tau-b of each observation (N,); NaN where one of the two tied everything."""
    alike, opposite, first, second = counts[:, :BOTH_TIED].T
    strict = alike + opposite
    with np.errstate(divide="ignore", invalid="ignore"):
        return (alike - opposite) / np.sqrt((strict + second) * (strict + first))
