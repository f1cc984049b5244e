"""Who is preferred, by how much and how surely: statistics over lists of judgements.

The paper's measures of section 4.1: win rates (ties as half a win), Likert means, the metadata of
Table 3, and the agreement between labelers; and Bradley-Terry strengths, which put all models on
one scale and so compare pairs that no labeler saw side by side.

A judgement may come from a person, a simulated labeler, an LLM judge or the gold measure: all of
them are a ``labeler`` here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.errors import EvaluationError
from heedful.records import METADATA_FIELDS, Cohort, Judgement
from heedful.statistics.intervals import (
    MIN_LABELERS,
    Floats,
    Interval,
    bootstrap,
    cluster_draws,
    two_way_bootstrap,
    two_way_if_enough,
)
from heedful.statistics.pairs import ALIKE, OPPOSITE, Ranked, observe, strict_rate

# Wins given both ways to every pair of models, so that strengths stay finite where one model
# always won or two groups of models never met.
PRIOR_WINS = 0.01


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
    chosen = _of_cohort(judgements, cohort)
    wins, prompts, labelers = [], [], []
    for judgement in chosen:
        won = _win(judgement, model, baseline)
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


def likert(
    judgements: Sequence[Judgement],
    *,
    cohort: Cohort | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The mean overall rating (1 worst to 7 best) of each model, in order of first appearance."""
    answers: dict[str, _Answers] = defaultdict(_Answers)
    for judgement in _of_cohort(judgements, cohort):
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
    for judgement in _of_cohort(judgements, cohort):
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


def bradley_terry(
    judgements: Sequence[Judgement],
    *,
    cohort: Cohort | None = None,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """The strength of each model in log-odds (mean 0), strongest first, with prompt intervals.

    Maximises sum over pairs of wins[i, j] * log sigmoid(s_i - s_j): ties are half a win each way,
    and every pair of models gets ``PRIOR_WINS`` both ways.
    """
    chosen = _of_cohort(judgements, cohort)
    models = list(dict.fromkeys(name for judgement in chosen for name in judgement.models))
    if len(models) < 2:
        raise EvaluationError(f"Bradley-Terry needs two models or more; got {models or 'none'}")
    tables = _win_tables(chosen, models)  # (prompts, M, M)
    value = fit_strengths(tables.sum(axis=0)[None])[0]
    if len(tables) < 2:
        low = high = np.full(len(models), math.nan)
    else:
        drawn = cluster_draws(np.random.default_rng(seed), num_samples, len(tables))
        samples = fit_strengths(np.tensordot(drawn, tables, axes=1))
        tail = (1 - level) / 2
        low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    strengths = {
        model: Interval(float(value[i]), float(low[i]), float(high[i]))
        for i, model in enumerate(models)
    }
    return dict(sorted(strengths.items(), key=lambda item: -item[1].value))


def fit_strengths(wins: Floats, *, prior: float = PRIOR_WINS) -> Floats:
    """The Bradley-Terry maximum (S, M) of each win table (S, M, M): wins[s, i, j] of i over j.

    Damped Newton on the concave log-likelihood, all tables at once; rows have mean 0.
    """
    num_models = wins.shape[-1]
    wins = wins + prior * (1 - np.eye(num_models))
    games = wins + wins.swapaxes(1, 2)
    strengths = np.zeros(wins.shape[:2])
    for _ in range(200):
        chance = _sigmoid(strengths[:, :, None] - strengths[:, None, :])
        slope = (wins - games * chance).sum(axis=2)
        weight = games * chance * (1 - chance)
        curvature = weight.sum(axis=2)[:, :, None] * np.eye(num_models) - weight
        # The likelihood knows only differences: the added ones fix the mean without moving it.
        step = np.linalg.solve(curvature + 1.0 / num_models, slope[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        # Far from the maximum a Newton step can overshoot; one unit of log-odds never does harm.
        strengths += step / np.maximum(largest, 1.0)
        strengths -= strengths.mean(axis=1, keepdims=True)
        if largest.max() < 1e-5:  # Newton squares the error, so it is far smaller by now
            return strengths
    raise EvaluationError(
        f"the Bradley-Terry fit did not settle in 200 steps (last step {largest.max():.1e}); "
        f"is a model in almost no comparison?"
    )


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
            for judgement in _of_cohort(judgements, cohort)
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
        wins = [0.5 if m == baseline else _win(judgement, m, baseline) for m in models]
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


def _of_cohort(judgements: Iterable[Judgement], cohort: Cohort | None) -> list[Judgement]:
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


def _win(judgement: Judgement, model: str, baseline: str) -> float:
    """The share of output pairs that ``model`` wins (a tie is half); NaN where there is no pair."""
    ranked = list(zip(judgement.models, judgement.ranks, strict=True))
    ours = [rank for name, rank in ranked if name == model]
    theirs = [rank for name, rank in ranked if name == baseline]
    if not ours or not theirs or model == baseline:
        return math.nan
    won = sum((a < b) + 0.5 * (a == b) for a in ours for b in theirs)
    return won / (len(ours) * len(theirs))


def _win_tables(judgements: Sequence[Judgement], models: Sequence[str]) -> Floats:
    """Wins of the row's model over the column's (prompts, M, M), a tie half a win each way."""
    place = {model: i for i, model in enumerate(models)}
    row = {name: i for i, name in enumerate(dict.fromkeys(j.prompt_id for j in judgements))}
    tables = np.zeros((len(row), len(models), len(models)))
    for judgement in judgements:
        table = tables[row[judgement.prompt_id]]
        ranked = zip(judgement.models, judgement.ranks, strict=True)
        for (model, rank), (other, other_rank) in combinations(ranked, 2):
            if model != other:
                won = (rank < other_rank) + 0.5 * (rank == other_rank)
                table[place[model], place[other]] += won
                table[place[other], place[model]] += 1 - won
    return tables


def _ranks_by_output(judgement: Judgement) -> dict[tuple[str, int], int]:
    seen: dict[str, int] = defaultdict(int)
    ranks = {}
    for model, rank in zip(judgement.models, judgement.ranks, strict=True):
        ranks[model, seen[model]] = rank
        seen[model] += 1
    return ranks


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(0.5 * x))
