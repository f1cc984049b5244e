"""Who is preferred, by how much and how surely: statistics over lists of judgements.

The paper's measures of section 4.1: win rates (ties as half a win), Likert means, the metadata of
Table 3, the agreement between labelers, and its 2x2 of labelers by prompt distribution. Strengths
on one scale are in ``bradley_terry``, win rates at equal length in ``length_control``.

A judgement may come from a person, a simulated labeler, an LLM judge or the gold measure: all of
them are a ``labeler`` here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from heedful.errors import EvaluationError
from heedful.records import METADATA_FIELDS, Cohort, Judgement
from heedful.statistics.intervals import (
    MIN_LABELERS,
    Floats,
    Interval,
    bootstrap,
    two_way_bootstrap,
    two_way_if_enough,
)
from heedful.statistics.pairs import ALIKE, OPPOSITE, Ranked, observe, strict_rate


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over answers with its interval, and how many answers it rests on."""

    interval: Interval
    num_answers: int


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often ``model`` was preferred to ``baseline``, from 0 to 1, with three intervals."""

    model: str
    baseline: str
    cohort: Cohort | None
    by_prompt: Interval
    by_labeler: Interval
    two_way: Interval
    num_judgements: int
    num_prompts: int
    num_labelers: int

    @property
    def value(self) -> float:
        """The win rate itself."""
        return self.by_prompt.value

    @property
    def interval(self) -> Interval:
        """The interval to quote: two-way from five labelers on, else for this fixed team."""
        return self.two_way if self.num_labelers >= MIN_LABELERS else self.by_prompt


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two labelers put a pair of outputs in the same order, where neither tied them."""

    interval: Interval
    num_pairs: int
    num_prompts: int
    num_labelers: int


def win_rate(
    judgements: Sequence[Judgement],
    model: str,
    baseline: str,
    *,
    cohort: Cohort | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> WinRate:
    """The win rate of ``model`` over ``baseline``, the mean over judgements that rank both.

    Within a judgement that has several outputs of a model, all pairs of outputs count equally.
    """
    chosen = of_cohort(judgements, cohort)
    wins, prompts, labelers = [], [], []
    for judgement in chosen:
        won = win_of(judgement, model, baseline)
        if not math.isnan(won):
            wins.append(won)
            prompts.append(judgement.prompt_id)
            labelers.append(judgement.labeler)
    if not wins:
        seen = sorted({name for judgement in chosen for name in judgement.models})
        where = f" in cohort {cohort!r}" if cohort else ""
        raise EvaluationError(
            f"no judgement ranks both {model!r} and {baseline!r}{where}; "
            f"models seen: {', '.join(seen) or 'none'}"
        )
    settings: dict[str, Any] = {"num_samples": num_samples, "seed": seed}
    return WinRate(
        model,
        baseline,
        cohort,
        by_prompt=bootstrap(wins, prompts, **settings),
        by_labeler=bootstrap(wins, labelers, **settings),
        two_way=two_way_bootstrap(wins, prompts, labelers, **settings),
        num_judgements=len(wins),
        num_prompts=len(set(prompts)),
        num_labelers=len(set(labelers)),
    )


def two_by_two(
    judgements: Sequence[Judgement],
    distributions: Mapping[str, str],
    models: Sequence[str],
    baseline: str,
    *,
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[tuple[Cohort, str], list[WinRate]]:
    """Win rates over the baseline by (cohort, prompt distribution), the paper's Figure 3.

    ``distributions`` says of each prompt id where it came from ("InstructGPT", "GPT-3"). A model
    without a judgement in a cell is left out of it, a cell without any has no entry.
    """
    unknown = {found.prompt_id for found in judgements} - distributions.keys()
    if unknown:
        raise EvaluationError(
            f"{len(unknown)} judged prompts belong to no distribution, such as "
            f"{min(unknown)!r}: name the distribution of every prompt"
        )
    found: dict[tuple[Cohort, str], list[WinRate]] = {}
    for cohort in get_args(Cohort):
        for name in sorted({distributions[one.prompt_id] for one in judgements}):
            cell = [
                one
                for one in judgements
                if one.cohort == cohort and distributions[one.prompt_id] == name
            ]
            judged = [
                model
                for model in models
                if any(not math.isnan(win_of(one, model, baseline)) for one in cell)
            ]
            rates = [
                win_rate(cell, model, baseline, num_samples=num_samples, seed=seed)
                for model in judged
            ]
            if rates:
                found[cohort, name] = [replace(rate, cohort=cohort) for rate in rates]
    return found


def likert(
    judgements: Sequence[Judgement],
    *,
    cohort: Cohort | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The mean overall rating (1 worst to 7 best) of each model, in order of first appearance."""
    answers: dict[str, _Answers] = defaultdict(_Answers)
    for judgement in of_cohort(judgements, cohort):
        for model, rating in zip(judgement.models, judgement.ratings or (), strict=False):
            if rating is not None:
                answers[model].add(rating.overall, judgement)
    return {model: found.estimate(num_samples, seed) for model, found in answers.items()}


def metadata_rates(
    judgements: Sequence[Judgement],
    *,
    cohort: Cohort | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """For each model and flag of Table 3, the share of "yes" among the answers given.

    A flag that is None or absent was not answered and is left out; a flag never answered for a
    model has no entry. Flags come in the order of Table 3, then any others by name.
    """
    answers: dict[str, dict[str, _Answers]] = defaultdict(lambda: defaultdict(_Answers))
    for judgement in of_cohort(judgements, cohort):
        for model, rating in zip(judgement.models, judgement.ratings or (), strict=False):
            for flag, answer in (rating.flags if rating else {}).items():
                if answer is not None:
                    answers[model][flag].add(float(answer), judgement)
    order = {flag: place for place, flag in enumerate(METADATA_FIELDS)}
    return {
        model: {
            flag: flags[flag].estimate(num_samples, seed)
            for flag in sorted(flags, key=lambda flag: (order.get(flag, len(order)), flag))
        }
        for model, flags in answers.items()
    }


def agreement(
    judgements: Sequence[Judgement], *, num_samples: int = 2000, seed: int = 0
) -> dict[Cohort, Agreement]:
    """For each cohort, how often its labelers agree on the order of two outputs of one prompt.

    The "strict" rate: over all pairs of labelers of the cohort with a prompt in common and all
    pairs of outputs that both put in a strict order. (The paper does not say how it counts ties;
    Stiennon et al. 2020, C.2, leave them out.) Outputs are matched by model, and those of the same
    model in the order they are listed. The interval is two-way from five labelers on, else by
    prompt.
    """
    found = {}
    for cohort in ("train", "heldout"):
        rankings = [
            Ranked(judgement.prompt_id, judgement.labeler, _ranks_by_output(judgement))
            for judgement in of_cohort(judgements, cohort)
        ]
        every = observe(rankings)
        strict = every.counts[:, [ALIKE, OPPOSITE]].sum(axis=1)
        kept = every.where(strict > 0)
        if len(kept.prompts) == 0:
            continue
        found[cohort] = Agreement(
            two_way_if_enough(
                kept.counts,
                kept.prompts,
                kept.labelers,
                statistic=strict_rate,
                num_samples=num_samples,
                seed=seed,
            ),
            num_pairs=int(strict.sum()),
            num_prompts=len(np.unique(kept.prompts)),
            num_labelers=len(np.unique(kept.labelers)),
        )
    return found


def order_agreement(
    judgements: Sequence[Judgement],
    models: Sequence[str],
    baseline: str,
    *,
    num_samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Kendall's tau-b between the orders of ``models`` by win rate in the two cohorts.

    1 means that held-out labelers order the models exactly as training labelers do. The baseline
    may be one of the models: its rate is one half. The interval is over prompts.
    """
    if len(models) < 2:
        raise EvaluationError(f"an order needs two models or more; got {list(models)}")
    rows = []
    for judgement in judgements:
        wins = [0.5 if m == baseline else win_of(judgement, m, baseline) for m in models]
        unknown = [math.nan] * len(models)
        rows.append(wins + unknown if judgement.cohort == "train" else unknown + wins)
    table = np.asarray(rows, dtype=float).reshape(len(rows), 2 * len(models))
    if np.isnan(table).all(axis=0).any():
        raise EvaluationError(
            f"comparing the cohorts needs judgements of {', '.join(models)} against {baseline} "
            f"from both training and held-out labelers"
        )
    prompts = [judgement.prompt_id for judgement in judgements]
    return bootstrap(table, prompts, statistic=_tau_b, num_samples=num_samples, seed=seed)


def _tau_b(means: Floats) -> Floats:
    """Kendall's tau-b (S,) between the first and the second half of the columns (S, 2M)."""
    first, second = np.hsplit(means, 2)
    i, j = np.triu_indices(first.shape[1], 1)
    a, b = np.sign(first[:, i] - first[:, j]), np.sign(second[:, i] - second[:, j])
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


class _Answers:
    """The answers to one question about one model, with who gave them to which prompt."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.prompts: list[str] = []
        self.labelers: list[str] = []

    def add(self, value: float, judgement: Judgement) -> None:
        self.values.append(value)
        self.prompts.append(judgement.prompt_id)
        self.labelers.append(judgement.labeler)

    def estimate(self, num_samples: int, seed: int) -> Estimate:
        interval = two_way_if_enough(
            self.values, self.prompts, self.labelers, num_samples=num_samples, seed=seed
        )
        return Estimate(interval, len(self.values))


def of_cohort(judgements: Iterable[Judgement], cohort: Cohort | None) -> list[Judgement]:
    """The judgements of a cohort (all where None), checked to have one rank per model."""
    chosen = [found for found in judgements if cohort is None or found.cohort == cohort]
    for judgement in chosen:
        parts = {len(judgement.models), len(judgement.ranks)}
        parts |= set() if judgement.ratings is None else {len(judgement.ratings)}
        if len(parts) > 1:
            raise EvaluationError(
                f"judgement of prompt {judgement.prompt_id!r} by {judgement.labeler!r}: models, "
                f"ranks and ratings must be equally many; got {len(judgement.models)} models and "
                f"{len(judgement.ranks)} ranks"
            )
    return chosen


def win_of(judgement: Judgement, model: str, baseline: str) -> float:
    """The share of output pairs that ``model`` wins (a tie is half); NaN where there is no pair."""
    ranked = list(zip(judgement.models, judgement.ranks, strict=True))
    ours = [rank for name, rank in ranked if name == model]
    theirs = [rank for name, rank in ranked if name == baseline]
    if not ours or not theirs or model == baseline:
        return math.nan
    won = sum((a < b) + 0.5 * (a == b) for a in ours for b in theirs)
    return won / (len(ours) * len(theirs))


def _ranks_by_output(judgement: Judgement) -> dict[tuple[str, int], int]:
    seen: dict[str, int] = defaultdict(int)
    ranks = {}
    for model, rank in zip(judgement.models, judgement.ranks, strict=True):
        ranks[model, seen[model]] = rank
        seen[model] += 1
    return ranks
