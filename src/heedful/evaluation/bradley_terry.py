"""Bradley-Terry strengths: all models on one scale, out of any pairs that were judged.

Model ``i`` is preferred to ``j`` with the chance sigmoid(s_i - s_j). The strengths also say what to
expect of two models that nobody saw side by side, as the paper's Figure 1 does through its common
baseline: 175B PPO-ptx at 66 % and GPT-3 at a quarter against SFT imply some 86 % for the two.

Legend: ``J`` judgements, ``M`` models, ``S`` bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from heedful.errors import EvaluationError
from heedful.evaluation.preference import of_cohort
from heedful.records import Cohort, Judgement
from heedful.statistics.intervals import MIN_LABELERS, Floats, Interval, resampled_sums

# Wins given both ways to every pair of models, so that strengths stay finite where one model
# always won or two groups of models never met.
PRIOR_WINS = 0.01


@dataclass(frozen=True, slots=True)
class Strengths:
    """The strength of each model in log-odds (mean 0), with the draws that its interval is from."""

    models: tuple[str, ...]
    value: Floats  # (M,)
    draws: Floats  # (S, M); no rows where no interval can be given

    def of(self, model: str, *, level: float = 0.95) -> Interval:
        """The strength of a model."""
        place = self.models.index(model)
        return _interval(float(self.value[place]), self.draws[:, place], level)

    def ranked(self) -> dict[str, Interval]:
        """The strength of every model, strongest first."""
        order = sorted(self.models, key=lambda model: -self.value[self.models.index(model)])
        return {model: self.of(model) for model in order}

    def win_rate(self, model: str, other: str, *, level: float = 0.95) -> Interval:
        """The chance that ``model`` is preferred to ``other``, whether or not they ever met."""
        i, j = self.models.index(model), self.models.index(other)
        value = _sigmoid(self.value[i] - self.value[j])
        draws = _sigmoid(self.draws[:, i] - self.draws[:, j])
        return _interval(float(value), draws, level)


def fit(
    judgements: Sequence[Judgement],
    *,
    cohort: Cohort | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> Strengths:
    """The strengths of all models, fitted anew to every draw of whole prompts.

    From ``MIN_LABELERS`` labelers on whole labelers are drawn as well (two-way). Maximises the sum
    over pairs of wins[i, j] * log sigmoid(s_i - s_j): a tie is half a win each way, and every pair
    of models gets ``PRIOR_WINS`` both ways.
    """
    chosen = of_cohort(judgements, cohort)
    models = tuple(dict.fromkeys(name for judgement in chosen for name in judgement.models))
    if len(models) < 2:
        raise EvaluationError(
            f"Bradley-Terry needs two models or more; got {', '.join(models) or 'none'}"
        )
    tables = win_tables(chosen, models)  # (J, M, M)
    value = fit_strengths(tables.sum(axis=0)[None])[0]
    prompts = [judgement.prompt_id for judgement in chosen]
    labelers = [judgement.labeler for judgement in chosen]
    if len(set(prompts)) < 2:
        return Strengths(models, value, np.zeros((0, len(models))))
    is_two_way = len(set(labelers)) >= MIN_LABELERS
    sums = resampled_sums(
        tables.reshape(len(tables), -1),
        [prompts, labelers] if is_two_way else [prompts],
        num_samples=num_samples,
        seed=seed,
    )
    return Strengths(models, value, fit_strengths(sums.reshape(-1, *tables.shape[1:])))


def bradley_terry(
    judgements: Sequence[Judgement],
    *,
    cohort: Cohort | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """The strength of each model in log-odds (mean 0), strongest first."""
    return fit(judgements, cohort=cohort, num_samples=num_samples, seed=seed).ranked()


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


def implied_win_rate(rates: Mapping[str, float], model: str, other: str) -> float:
    """The win rate of ``model`` over ``other`` that their rates against one baseline imply.

    sigmoid(logit w_model - logit w_other), for printed figures without their judgements.
    """
    outside = {name: rates[name] for name in (model, other) if not 0 < rates[name] < 1}
    if outside:
        raise EvaluationError(
            f"a win rate of 0 or 1 has no finite strength; got {outside}: fit the judgements "
            "themselves instead"
        )
    strength = {name: math.log(rates[name] / (1 - rates[name])) for name in (model, other)}
    return 1 / (1 + math.exp(strength[other] - strength[model]))


def win_tables(judgements: Sequence[Judgement], models: Sequence[str]) -> Floats:
    """Wins of the row's model over the column's (J, M, M), a tie half a win each way."""
    place = {model: i for i, model in enumerate(models)}
    tables = np.zeros((len(judgements), len(models), len(models)))
    for table, judgement in zip(tables, judgements, strict=True):
        ranked = zip(judgement.models, judgement.ranks, strict=True)
        for (model, rank), (other, other_rank) in combinations(ranked, 2):
            if model != other:
                won = (rank < other_rank) + 0.5 * (rank == other_rank)
                table[place[model], place[other]] += won
                table[place[other], place[model]] += 1 - won
    return tables


def _interval(value: float, draws: Floats, level: float) -> Interval:
    if len(draws) == 0:
        return Interval(value, math.nan, math.nan)
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * x))
