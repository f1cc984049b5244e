"""How far labelers agree on the order of outputs; ``rating_agreement`` has ratings and flags.

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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.errors import DataError
from heedful.records import Rating
from heedful.statistics.intervals import MIN_LABELERS, Interval, bootstrap_all
from heedful.statistics.pairs import (
    ALIKE,
    OPPOSITE,
    Floats,
    Observations,
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
    two_way: Interval  # without bounds where it was not asked for

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
    return agreement_of(found, num_samples=num_samples, seed=seed)


def agreement_of(
    found: Observations,
    *,
    num_samples: int = 2000,
    seed: int = 0,
    two_way: bool = True,
    normal_from: int | None = None,
) -> RankingAgreement | None:
    """``ranking_agreement`` of what was observed before; ``normal_from`` is as in bootstrap_all.

    Without ``two_way``, whose work grows with observations times samples, it has no bounds.
    """
    if len(found.prompts) == 0:
        return None
    taus = tau_b(found.counts)
    columns = np.column_stack([found.counts, taus])
    num_prompts, num_labelers = len(np.unique(found.prompts)), len(np.unique(found.labelers))
    clusterings = {"by_labeler": [found.labelers], "by_prompt": [found.prompts]}
    if two_way:
        clusterings["two_way"] = [found.prompts, found.labelers]
    statistics = {name: rate.statistic for name, rate in RATES.items()}
    suppressed = _too_few(num_prompts, num_labelers)
    options = {"num_samples": num_samples, "seed": seed, "normal_from": normal_from}
    intervals = {
        way: bootstrap_all(columns, by, statistics, **options) for way, by in clusterings.items()
    }
    intervals.setdefault(
        "two_way", {name: without_bounds(one) for name, one in intervals["by_prompt"].items()}
    )
    for way in suppressed:
        intervals[way] = {name: without_bounds(one) for name, one in intervals[way].items()}
    return RankingAgreement(
        {
            name: Rate(
                name, rate.words, **{way: by_name[name] for way, by_name in intervals.items()}
            )
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
    _, values = concordances([answer.ranked() for answer in newest(answers)])
    return concordance_of(values, num_samples=num_samples, seed=seed)


def concordances(rankings: Sequence[Ranked]) -> tuple[NDArray[np.intp], Floats]:
    """(place of one of its rankings, W) of every prompt that three or more ranked, (G,) each.

    W is NaN where every labeler tied everything.
    """
    places, found = [np.zeros(0, dtype=np.intp)], [np.zeros(0)]
    for members, ranks in stacked(rankings):
        num_labelers, num_outputs = ranks.shape[1:]
        if num_labelers < 3 or num_outputs < 2:
            continue
        is_whole = ~np.isnan(ranks).any(axis=(1, 2))
        whole = ranks[is_whole]  # (G, n, U)
        below = (whole[..., :, None] > whole[..., None, :]).sum(axis=-1)
        tied = (whole[..., :, None] == whole[..., None, :]).sum(axis=-1)  # itself included
        sums = (below + (tied + 1) / 2).sum(axis=1)  # (G, U): of middle ranks
        deviations = ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        ties = (tied**2 - 1).sum(axis=(1, 2))
        most = num_labelers**2 * (num_outputs**3 - num_outputs) - num_labelers * ties
        with np.errstate(invalid="ignore"):
            found.append(12 * deviations / most)
        places.append(members[is_whole, 0])
    return np.concatenate(places), np.concatenate(found)


def concordance_of(
    values: Floats, *, num_samples: int = 2000, seed: int = 0, normal_from: int | None = None
) -> Concordance | None:
    """The mean of W (G,) over prompts with its interval; None where no prompt defines it."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return None
    mean = bootstrap_all(
        known,
        [np.arange(len(known))],
        {"": "mean"},
        num_samples=num_samples,
        seed=seed,
        normal_from=normal_from,
    )[""]
    if len(known) < MIN_SHARED_PROMPTS:
        mean = without_bounds(mean)
    return Concordance(mean, len(known), len(values) - len(known))
