"""Confidence intervals that respect who judged what: bootstraps over clusters, never over rows.

Answers to one prompt, and answers of one labeler, resemble each other. An interval that treats
them as independent is several times too narrow, so whole clusters are drawn again, with
replacement. Three choices, for three questions:

- by prompt: would this team say the same of other prompts?
- by labeler: would other labelers say the same of these prompts?
- two-way: would other labelers say the same of other prompts? (the "pigeonhole" bootstrap of
  Owen 2007: a row counts its prompt's draw times its labeler's draw; somewhat too wide, by design)

Legend: ``N`` rows, ``D`` columns, ``C`` clusters, ``S`` bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.errors import EvaluationError

Floats = NDArray[np.float64]
# A statistic takes column means (S, D) and returns one number per sample (S,).
Statistic = Literal["mean"] | Callable[[Floats], Floats]

# With fewer labelers than this a bootstrap over labelers says nothing that can be trusted.
MIN_LABELERS = 5
# Weights held in memory at once, in entries: 4M float64 are 32 MB.
_CHUNK_ENTRIES = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its confidence bounds; a bound is NaN where none can be given."""

    value: float
    low: float
    high: float

    def to_row(self) -> dict[str, float | None]:
        """The JSON form: ``value``, ``low``, ``high``, with None for what is not a number."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {key: number if math.isfinite(number) else None for key, number in named.items()}


def bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    statistic: Statistic = "mean",
    num_samples: int = 2000,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """The statistic of ``values`` (N,) or (N, D) with its percentile interval over clusters.

    NaN marks a missing answer and is left out of its column's mean. ``clusters`` is (N,), or
    (N, 2) where a row belongs to two of the same kind (a pair of labelers): it then counts the
    product of their draws. With fewer than two clusters the bounds are NaN.
    """
    rows, names = _checked(values, clusters)
    return _interval(rows, [names], statistic, num_samples, level, seed)


def two_way_bootstrap(
    values: ArrayLike,
    prompts: ArrayLike,
    labelers: ArrayLike,
    *,
    statistic: Statistic = "mean",
    num_samples: int = 2000,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """The statistic of ``values`` with an interval over both prompts and labelers (pigeonhole).

    ``prompts`` and ``labelers`` are as ``clusters`` of ``bootstrap``.
    """
    rows, prompt_names = _checked(values, prompts)
    _, labeler_names = _checked(values, labelers)
    return _interval(rows, [prompt_names, labeler_names], statistic, num_samples, level, seed)


def two_way_if_enough(
    values: ArrayLike,
    prompts: ArrayLike,
    labelers: ArrayLike,
    *,
    statistic: Statistic = "mean",
    num_samples: int = 2000,
    seed: int,
) -> Interval:
    """The 95 % two-way interval from ``MIN_LABELERS`` labelers on, else that by prompt.

    Fewer labelers are a fixed team: the interval then answers for other prompts alone.
    """
    if np.unique(np.asarray(labelers)).size < MIN_LABELERS:
        return bootstrap(values, prompts, statistic=statistic, num_samples=num_samples, seed=seed)
    return two_way_bootstrap(
        values, prompts, labelers, statistic=statistic, num_samples=num_samples, seed=seed
    )


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike,
    *,
    num_samples: int = 2000,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """The mean of ``a - b`` over rows where both are known, with its interval over clusters."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise EvaluationError(
            f"a paired difference needs two lists of one length, row i of both on the same item; "
            f"got shapes {first.shape} and {second.shape}"
        )
    return bootstrap(first - second, clusters, num_samples=num_samples, level=level, seed=seed)


def ratio(means: Floats) -> Floats:
    """A statistic: the first column's mean over the second's."""
    return means[:, 0] / means[:, 1]


def recovered_share(means: Floats) -> Floats:
    """A statistic over columns (base, ppo, ptx): the part of PPO's change that PPO-ptx undoes.

    ``(ppo - ptx) / (ppo - base)``: 1 when PPO-ptx is back at the base model, 0 when it is where
    PPO is. The sign of the measure cancels, so it serves losses and accuracies alike.
    """
    base, ppo, ptx = means[:, 0], means[:, 1], means[:, 2]
    return (ppo - ptx) / (ppo - base)


def _checked(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, NDArray[np.intp]]:
    """``values`` as (N, D) and the clusters' numbers as (N, m)."""
    rows = np.asarray(values, dtype=float)
    rows = rows[:, None] if rows.ndim == 1 else rows
    names = np.asarray(clusters)
    names = names[:, None] if names.ndim == 1 else names
    if rows.ndim != 2 or names.ndim != 2 or len(rows) != len(names):
        raise EvaluationError(
            f"a bootstrap needs one cluster for each row of values; got {rows.shape} values and "
            f"{names.shape} clusters"
        )
    if len(rows) == 0:
        raise EvaluationError("a bootstrap needs at least one value; got none")
    _, numbers = np.unique(names.ravel(), return_inverse=True)
    return rows, numbers.reshape(names.shape)


def _interval(
    rows: Floats,
    clusterings: list[NDArray[np.intp]],
    statistic: Statistic,
    num_samples: int,
    level: float,
    seed: int,
) -> Interval:
    if not 0 < level < 1:
        raise EvaluationError(f"the level of an interval is between 0 and 1; got {level}")
    if statistic == "mean" and rows.shape[1] != 1:
        raise EvaluationError(f"the mean is of one column; got {rows.shape[1]}: name a statistic")
    present = ~np.isnan(rows)
    totals = np.hstack([np.where(present, rows, 0.0), present])  # (N, 2D): sums beside counts
    value = float(_apply(statistic, totals.sum(axis=0, keepdims=True))[0])
    if any(numbers.max() == 0 for numbers in clusterings):
        return Interval(value, math.nan, math.nan)
    draws = _apply(statistic, _resampled(totals, clusterings, num_samples, seed))
    draws = draws[~np.isnan(draws)]
    if len(draws) < num_samples / 2:
        return Interval(value, math.nan, math.nan)
    tail = (1 - level) / 2
    # An order statistic, not an interpolation: a ratio may be infinite in some samples.
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    return Interval(value, float(low), float(high))


def _apply(statistic: Statistic, totals: Floats) -> Floats:
    sums, counts = np.hsplit(totals, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / counts
        return means[:, 0] if statistic == "mean" else statistic(means)


def _resampled(
    totals: Floats, clusterings: list[NDArray[np.intp]], num_samples: int, seed: int
) -> Floats:
    """Weighted totals (S, 2D) of ``num_samples`` draws of the clusters."""
    if len(clusterings) == 1 and clusterings[0].shape[1] == 1:
        # One draw moves a whole cluster, so its rows can be added up once, beforehand.
        totals, clusterings = _by_cluster(totals, clusterings[0][:, 0])
    rng = np.random.default_rng(seed)
    sizes = [int(numbers.max()) + 1 for numbers in clusterings]
    step = max(1, _CHUNK_ENTRIES // max(len(totals), *sizes))
    parts = []
    for start in range(0, num_samples, step):
        num = min(step, num_samples - start)
        weights = np.ones((num, len(totals)))
        for numbers, size in zip(clusterings, sizes, strict=True):
            drawn = cluster_draws(rng, num, size)
            for column in numbers.T:
                weights *= drawn[:, column]
        parts.append(weights @ totals)
    return np.concatenate(parts)


def _by_cluster(totals: Floats, numbers: NDArray[np.intp]) -> tuple[Floats, list[NDArray[np.intp]]]:
    size = int(numbers.max()) + 1
    columns = [np.bincount(numbers, column, size) for column in totals.T]
    summed = np.stack(columns, axis=1, dtype=float)
    return summed, [np.arange(size)[:, None]]


def cluster_draws(rng: np.random.Generator, num_samples: int, num_clusters: int) -> Floats:
    """How often each cluster is drawn in each sample (S, C): rows add up to ``num_clusters``."""
    drawn = rng.integers(num_clusters, size=(num_samples, num_clusters))
    offsets = np.arange(num_samples)[:, None] * num_clusters
    counts = np.bincount((drawn + offsets).ravel(), minlength=num_samples * num_clusters)
    return counts.reshape(num_samples, num_clusters).astype(float)
