"""Confidence intervals that respect who judged what: bootstraps over clusters, never over rows.

Answers to one prompt, and answers of one labeler, resemble each other. An interval that treats
them as independent is several times too narrow, so whole clusters are drawn again, with
replacement. Three choices, for three questions:

- by prompt: would this team say the same of other prompts?
- by labeler: would other labelers say the same of these prompts?
- two-way: would other labelers say the same of other prompts? (the "pigeonhole" bootstrap of
  Owen 2007: a row counts its prompt's draw times its labeler's draw; somewhat too wide, by design)

Where many shares are wanted at once (a page with a line for each labeler), ``formulas.shares``
gives the interval without drawing, over clusters as well.

Legend: ``N`` rows, ``D`` columns, ``C`` clusters, ``S`` bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# A table of two clusterings is used up to so many cells a row, and numbers in them.
_MAX_CELLS, _MAX_NUMBERS = 16, 320


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
    return bootstrap_all(
        values, [clusters], {"": statistic}, num_samples=num_samples, level=level, seed=seed
    )[""]


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
    return bootstrap_all(
        values,
        [prompts, labelers],
        {"": statistic},
        num_samples=num_samples,
        level=level,
        seed=seed,
    )[""]


def bootstrap_all(
    values: ArrayLike,
    clusterings: Sequence[ArrayLike],
    statistics: Mapping[str, Statistic],
    *,
    num_samples: int = 2000,
    level: float = 0.95,
    seed: int,
    normal_from: int | None = None,
) -> dict[str, Interval]:
    """Several statistics of the same rows, by name, from the same draws.

    ``clusterings`` are as ``clusters`` of ``bootstrap``; a row counts the product of its draws in
    all of them. Drawing is what costs, so further statistics are nearly free. From ``normal_from``
    clusters on, the sums over the draws of one clustering (N,) are drawn from the normal
    distribution that so many independent clusters give them, whose cost does not grow with N.
    """
    checked = [_checked(values, clusters) for clusters in clusterings]
    rows, numbers = checked[0][0], [found for _, found in checked]
    is_normal = (
        normal_from is not None
        and len(numbers) == 1
        and numbers[0].shape[1] == 1
        and int(numbers[0].max()) + 1 >= normal_from
    )
    sample = _normal_sums if is_normal else _resampled
    return _intervals(rows, numbers, statistics, num_samples, level, seed, sample)


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


def resampled_sums(
    values: ArrayLike, clusterings: Sequence[ArrayLike], *, num_samples: int, seed: int
) -> Floats:
    """The sums of the columns of ``values`` (N, D) in each of the draws (S, D), for a statistic
    that is fitted to all columns at once. ``clusterings`` are as in ``bootstrap_all``.
    """
    checked = [_checked(values, clusters) for clusters in clusterings]
    numbers = [found for _, found in checked]
    return _resampled(checked[0][0], numbers, num_samples, seed)


def row_weights(
    clusterings: Sequence[ArrayLike], *, num_samples: int, seed: int
) -> Iterator[Floats]:
    """How often each row counts in each draw, a block of draws (s, N) at a time, for a statistic
    that needs the rows themselves (a regression).
    """
    numbers = [_checked(np.zeros(len(np.asarray(c))), c)[1] for c in clusterings]
    return _weights(numbers, num_samples, seed)


def difference_of_independent(a: Interval, b: Interval) -> Interval:
    """``a - b`` of two values that were measured apart, from their intervals alone.

    Each bound of the difference lies as far off as the two bounds that make it so, by Pythagoras
    (Zou and Donner 2008, MOVER; for two proportions Newcombe 1998). Too wide where both rest on the
    same prompts or people: then draw them together (``paired_difference``).
    """
    value = a.value - b.value
    below = math.hypot(a.value - a.low, b.high - b.value)
    above = math.hypot(a.high - a.value, b.value - b.low)
    return Interval(value, value - below, value + above)


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


def _intervals(
    rows: Floats,
    clusterings: list[NDArray[np.intp]],
    statistics: Mapping[str, Statistic],
    num_samples: int,
    level: float,
    seed: int,
    sample: Callable[[Floats, list[NDArray[np.intp]], int, int], Floats],
) -> dict[str, Interval]:
    if not 0 < level < 1:
        raise EvaluationError(f"the level of an interval is between 0 and 1; got {level}")
    if "mean" in statistics.values() and rows.shape[1] != 1:
        raise EvaluationError(f"the mean is of one column; got {rows.shape[1]}: name a statistic")
    present = ~np.isnan(rows)
    totals = np.hstack([np.where(present, rows, 0.0), present])  # (N, 2D): sums beside counts
    whole, drawn = totals.sum(axis=0, keepdims=True), None
    if all(numbers.max() > 0 for numbers in clusterings):
        drawn = sample(totals, clusterings, num_samples, seed)
    found = {}
    for name, statistic in statistics.items():
        value = float(_apply(statistic, whole)[0])
        low, high = (math.nan, math.nan)
        if drawn is not None:
            low, high = _quantiles(_apply(statistic, drawn), level)
        found[name] = Interval(value, low, high)
    return found


def _quantiles(draws: Floats, level: float) -> tuple[float, float]:
    """The percentile bounds; NaN where the statistic is undefined in most samples."""
    known = draws[~np.isnan(draws)]
    if len(known) < len(draws) / 2:
        return math.nan, math.nan
    tail = (1 - level) / 2
    # An order statistic, not an interpolation: a ratio may be infinite in some samples.
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def _apply(statistic: Statistic, totals: Floats) -> Floats:
    sums, counts = np.hsplit(totals, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / counts
        return means[:, 0] if statistic == "mean" else statistic(means)


def _resampled(
    totals: Floats, clusterings: list[NDArray[np.intp]], num_samples: int, seed: int
) -> Floats:
    """Weighted totals (S, 2D) of ``num_samples`` draws of the clusters."""
    if len(clusterings) == 1:
        # One draw moves a whole cluster, so its rows can be added up once, beforehand.
        totals, clusterings = _by_cluster(totals, clusterings[0])
    elif len(clusterings) == 2 and all(numbers.shape[1] == 1 for numbers in clusterings):
        table = _by_both(totals, clusterings[0][:, 0], clusterings[1][:, 0])
        if table is not None:
            draws = _draws(clusterings, num_samples, seed)
            return np.concatenate([_table_sums(table, *drawn) for drawn in draws])
    return np.concatenate(
        [weights @ totals for weights in _weights(clusterings, num_samples, seed)]
    )


def _by_both(totals: Floats, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats | None:
    """The totals (C1, C2, 2D) of the rows with the same two clusters; None where hardly any have.

    With a few labelers a product with this table takes a tenth of the time of weighing all rows.
    """
    shape = (int(first.max()) + 1, int(second.max()) + 1)
    num_cells = shape[0] * shape[1]
    if num_cells > min(_MAX_CELLS, _MAX_NUMBERS // totals.shape[1]) * len(totals):
        return None
    columns = [np.bincount(first * shape[1] + second, x, num_cells) for x in totals.T]
    return np.stack(columns, axis=1, dtype=float).reshape(*shape, -1)


def _table_sums(table: Floats, first: Floats, second: Floats) -> Floats:
    """The table's sums (s, 2D), its rows drawn (s, C1) times and its columns (s, C2) times."""
    by_second = (first @ table.reshape(len(table), -1)).reshape(len(first), *table.shape[1:])
    return np.einsum("sc,scd->sd", second, by_second)


def _normal_sums(
    totals: Floats, clusterings: list[NDArray[np.intp]], num_samples: int, seed: int
) -> Floats:
    """As ``_resampled`` of one clustering, by the central limit theorem: normal sums (S, 2D).

    Drawing C clusters with replacement gives sums of mean ``C m`` and covariance ``C V``, with the
    mean m and the covariance V (over C, not C - 1) of the clusters' totals.
    """
    by_cluster, _ = _by_cluster(totals, clusterings[0])
    num_clusters, mean = len(by_cluster), by_cluster.mean(axis=0)
    centred = by_cluster - mean
    spread, axes = np.linalg.eigh(centred.T @ centred)  # singular: counts of the same rows
    drawn = np.random.default_rng(seed).standard_normal((num_samples, len(mean)))
    return num_clusters * mean + drawn * np.sqrt(np.maximum(spread, 0.0)) @ axes.T


def _weights(
    clusterings: Sequence[NDArray[np.intp]], num_samples: int, seed: int
) -> Iterator[Floats]:
    """How often each row counts in each sample, a block of samples (s, N) at a time."""
    for draws in _draws(clusterings, num_samples, seed):
        weights = np.ones((len(draws[0]), len(clusterings[0])))
        for numbers, drawn in zip(clusterings, draws, strict=True):
            for column in numbers.T:
                weights *= drawn[:, column]
        yield weights


def _draws(
    clusterings: Sequence[NDArray[np.intp]], num_samples: int, seed: int
) -> Iterator[list[Floats]]:
    """How often each cluster is drawn (s, C), of every clustering, a block of samples at a time."""
    rng = np.random.default_rng(seed)
    sizes = [int(numbers.max()) + 1 for numbers in clusterings]
    step = max(1, _CHUNK_ENTRIES // max(len(clusterings[0]), *sizes))
    for start in range(0, num_samples, step):
        num = min(step, num_samples - start)
        yield [cluster_draws(rng, num, size) for size in sizes]


def _by_cluster(totals: Floats, numbers: NDArray[np.intp]) -> tuple[Floats, list[NDArray[np.intp]]]:
    """The totals of all rows with the same cluster, or the same two in either order."""
    # One number for a row's clusters, since sorting numbers is much faster than sorting rows.
    ordered, size = np.sort(numbers, axis=1), int(numbers.max()) + 1
    code = np.zeros(len(ordered), dtype=np.int64)
    for column in ordered.T:
        code = code * size + column
    _, first, places = np.unique(code, return_index=True, return_inverse=True)
    columns = [np.bincount(places, column, len(first)) for column in totals.T]
    return np.stack(columns, axis=1, dtype=float), [ordered[first]]


def cluster_draws(rng: np.random.Generator, num_samples: int, num_clusters: int) -> Floats:
    """How often each cluster is drawn in each sample (S, C): rows add up to ``num_clusters``."""
    drawn = rng.integers(num_clusters, size=(num_samples, num_clusters))
    offsets = np.arange(num_samples)[:, None] * num_clusters
    counts = np.bincount((drawn + offsets).ravel(), minlength=num_samples * num_clusters)
    return counts.reshape(num_samples, num_clusters).astype(float)
