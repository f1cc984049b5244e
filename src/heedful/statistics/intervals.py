"""Confidence intervals that respect who judged what: bootstraps over clusters, never over rows.

Answers to one prompt, and answers of one labeler, resemble each other. An interval that treats
them as independent is several times too narrow, so whole clusters are drawn again, with
replacement. Three choices, for three questions:

- by prompt: would this team say the same of other prompts?
- by labeler: would other labelers say the same of these prompts?
- two-way: would other labelers say the same of other prompts? (the "pigeonhole" bootstrap of
  Owen 2007: a row counts its prompt's draw times its labeler's draw; somewhat too wide, by design)

Where many shares are wanted at once (a page with a line for each labeler), ``shares`` gives the
interval by formula, over clusters as well.

Legend: ``N`` rows, ``D`` columns, ``C`` clusters, ``S`` bootstrap samples, ``G`` groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
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
    return np.concatenate(
        [weights @ totals for weights in _weights(clusterings, num_samples, seed)]
    )


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
    rng = np.random.default_rng(seed)
    num_rows, sizes = len(clusterings[0]), [int(numbers.max()) + 1 for numbers in clusterings]
    step = max(1, _CHUNK_ENTRIES // max(num_rows, *sizes))
    for start in range(0, num_samples, step):
        num = min(step, num_samples - start)
        weights = np.ones((num, num_rows))
        for numbers, size in zip(clusterings, sizes, strict=True):
            drawn = cluster_draws(rng, num, size)
            for column in numbers.T:
                weights *= drawn[:, column]
        yield weights


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


@dataclass(frozen=True, slots=True)
class Share:
    """A share (0 to 1) of ``num_items``, in ``num_clusters`` clusters, with its interval."""

    interval: Interval
    num_items: float
    num_clusters: int


def shares(
    hits: ArrayLike,
    items: ArrayLike,
    clusters: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> dict[str, Share]:
    """Hits over items for each group, with an interval over clusters by formula, not by drawing.

    Row ``n`` has ``hits[n]`` of ``items[n]`` (part of an item may be hit) and belongs to a cluster
    of a group; without ``groups`` there is one, "". The interval is Wilson's with Student's t, for
    as many independent items as would give the variance that is seen between clusters (Korn and
    Graubard 1998). Where all or none are hit that variance says nothing, and each cluster counts
    as one item. With fewer than two clusters the bounds are NaN; a group without items is left out.
    """
    hit, item = np.asarray(hits, dtype=float), np.asarray(items, dtype=float)
    group = np.full(len(hit), "") if groups is None else np.asarray(groups)
    cluster = np.asarray(clusters)
    if not (hit.shape == item.shape == group.shape == cluster.shape and hit.ndim == 1):
        raise EvaluationError(
            f"shares need hits, items, clusters and groups of one length; got shapes {hit.shape}, "
            f"{item.shape}, {cluster.shape} and {group.shape}"
        )
    if not 0 < level < 1:
        raise EvaluationError(f"the level of an interval is between 0 and 1; got {level}")
    kept = item > 0
    names, group = np.unique(group[kept], return_inverse=True)
    each, cluster = np.unique(cluster[kept], return_inverse=True)
    # One number for a group and a cluster: sorting numbers is much faster than sorting pairs.
    pairs, place = np.unique(group * np.int64(len(each)) + cluster, return_inverse=True)
    group_of = pairs // max(1, len(each))
    hit_by_cluster = np.bincount(place, hit[kept], len(pairs)).astype(float)
    item_by_cluster = np.bincount(place, item[kept], len(pairs)).astype(float)

    def by_group(values: Floats | None) -> Floats:
        return np.bincount(group_of, values, len(names)).astype(float)

    num_items, num_clusters = by_group(item_by_cluster), by_group(None)
    value = by_group(hit_by_cluster) / num_items  # (G,)
    residual = hit_by_cluster - value[group_of] * item_by_cluster
    low, high = _wilson(value, by_group(residual**2) / num_items**2, num_items, num_clusters, level)
    return {
        str(name): Share(Interval(float(v), float(a), float(b)), float(n), int(c))
        for name, v, a, b, n, c in zip(
            names, value, low, high, num_items, num_clusters, strict=True
        )
    }


def _wilson(
    value: Floats, variance: Floats, num_items: Floats, num_clusters: Floats, level: float
) -> tuple[Floats, Floats]:
    """Bounds (G,) of shares whose variance between clusters, before the C / (C - 1), is given."""
    with np.errstate(divide="ignore", invalid="ignore"):
        independent = value * (1 - value) / (variance * num_clusters / (num_clusters - 1))
        independent = np.where(variance > 1e-15, np.minimum(independent, num_items), num_clusters)
        z = student_t(0.5 + level / 2, num_clusters - 1)
        centre = (value + z**2 / (2 * independent)) / (1 + z**2 / independent)
        spread = np.sqrt(value * (1 - value) / independent + z**2 / (4 * independent**2))
        half = z / (1 + z**2 / independent) * spread
    alone = num_clusters < 2
    # At 0 and 1 rounding may put the bound a hair on the wrong side of the value.
    low = np.where(alone, np.nan, np.clip(np.minimum(centre - half, value), 0, 1))
    high = np.where(alone, np.nan, np.clip(np.maximum(centre + half, value), 0, 1))
    return low, high


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean of independent ``values`` (N,) with Student's interval; NaN bounds below two."""
    rows = np.asarray(values, dtype=float)
    if rows.ndim != 1 or len(rows) == 0:
        raise EvaluationError(f"a mean needs a list of at least one value; got shape {rows.shape}")
    mean = float(rows.mean())
    if len(rows) < 2:
        return Interval(mean, math.nan, math.nan)
    t = student_t(0.5 + level / 2, np.array([len(rows) - 1.0]))[0]
    half = float(t * rows.std(ddof=1) / math.sqrt(len(rows)))
    return Interval(mean, mean - half, mean + half)


def student_t(probability: float, freedom: Floats) -> Floats:
    """The quantile of Student's t by its expansion around the normal (Hill 1970; NaN at 0).

    Off by less than 0.01 at 95 % from 4 degrees of freedom on, by 0.14 of 4.30 at 2.
    """
    z = NormalDist().inv_cdf(probability)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(freedom > 0, 1 / freedom, np.nan)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + inverse * (first + inverse * (second + inverse * (third + inverse * fourth)))
