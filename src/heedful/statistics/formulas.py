"""Intervals by formula, without drawing: shares over clusters, means of independent values.

Legend: ``N`` rows, ``C`` clusters, ``G`` groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from heedful.errors import EvaluationError
from heedful.statistics.intervals import Floats, Interval


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
