"""Win rates at equal length: what is left of a preference when longer answers get no credit.

Judges, people and models alike, favour longer answers. The method is that of Dubois et al. 2024
("Length-Controlled AlpacaEval"): a logistic regression of the verdict on which model it is and on
the difference in length, whose prediction is then read where the difference is none:

    P(model preferred to baseline) = sigmoid(theta + phi * tanh((l_model - l_baseline) / sd))

with lengths in characters and ``sd`` the standard deviation of the difference; the win rate at
equal length is sigmoid(theta). Departures: their third term, how hard a prompt is, is left out,
because it needs the verdicts of many models on the same prompts; a tie is half a win.

Legend: ``N`` judgements, ``C`` clusters, ``S`` bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import EvaluationError
from heedful.evaluation.preference import of_cohort, win_of
from heedful.records import Cohort, Judgement
from heedful.statistics.intervals import MIN_LABELERS, Floats, Interval, row_weights

# The precision of a normal prior on theta and phi: keeps both finite where one side always won, and
# weighs as much as a few hundredths of a judgement.
_PRIOR = 0.01
# (prompt id, model) -> characters of its answer, the mean where it gave several
Lengths = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class EqualLength:
    """The win rate of ``model`` over ``baseline`` at equal length, and what length did to it."""

    model: str
    baseline: str
    interval: Interval
    length_effect: Interval  # phi, in log-odds: above 0 where the longer answer was preferred
    mean_difference: float  # characters, model minus baseline
    num_judgements: int


def length_controlled(
    judgements: Sequence[Judgement],
    lengths: Lengths,
    model: str,
    baseline: str,
    *,
    cohort: Cohort | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> EqualLength:
    """The length-controlled win rate, with an interval as ``WinRate.interval`` has it."""
    wins, differences, prompts, labelers = [], [], [], []
    for judgement in of_cohort(judgements, cohort):
        won = win_of(judgement, model, baseline)
        if math.isnan(won):
            continue
        sizes = [lengths.get((judgement.prompt_id, name)) for name in (model, baseline)]
        if sizes[0] is None or sizes[1] is None:
            raise EvaluationError(
                f"prompt {judgement.prompt_id!r} is judged, but the length of the answer of "
                f"{model if sizes[0] is None else baseline!r} is not known: give the completions "
                "that were judged"
            )
        wins.append(won)
        differences.append(sizes[0] - sizes[1])
        prompts.append(judgement.prompt_id)
        labelers.append(judgement.labeler)
    if not wins:
        raise EvaluationError(f"no judgement ranks both {model!r} and {baseline!r}")
    by = [prompts, labelers] if len(set(labelers)) >= MIN_LABELERS else [prompts]
    longer = np.array(differences)
    spread = longer.std()
    # Without any spread length explains nothing, and phi stays at its prior: 0.
    relative = np.tanh(longer / spread) if spread > 0 else np.zeros(len(longer))
    whole = _fit(np.array(wins), relative, np.ones((1, len(wins))))[0]
    low = high = np.full(2, math.nan)
    if len(set(prompts)) > 1:
        drawn = [
            _fit(np.array(wins), relative, weights)
            for weights in row_weights(by, num_samples=num_samples, seed=seed)
        ]
        low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
    at_equal = [float(0.5 * (1 + np.tanh(0.5 * found[0]))) for found in (whole, low, high)]
    return EqualLength(
        model,
        baseline,
        Interval(*at_equal),
        Interval(float(whole[1]), float(low[1]), float(high[1])),
        float(longer.mean()),
        len(wins),
    )


def _fit(wins: Floats, relative: Floats, weights: Floats) -> Floats:
    """(theta, phi) (S, 2) of each set of weights (S, N): Newton on the penalised likelihood."""
    columns = np.stack([np.ones_like(relative), relative], axis=1)  # (N, 2)
    found = np.zeros((len(weights), 2))
    for _ in range(100):
        chance = 0.5 * (1 + np.tanh(0.5 * found @ columns.T))  # (S, N)
        slope = (weights * (wins - chance)) @ columns - _PRIOR * found
        curvature = np.einsum("sn,ni,nj->sij", weights * chance * (1 - chance), columns, columns)
        step = np.linalg.solve(curvature + _PRIOR * np.eye(2), slope[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        found += step / np.maximum(largest, 1.0)
        if largest.max() < 1e-6:
            return found
    raise EvaluationError("the length-controlled win rate did not settle: are any lengths huge?")
