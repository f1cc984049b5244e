"""What plots draw: curves, and values with their intervals, taken from rows of results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from heedful.shown import finite


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve; ``xs`` and ``ys`` are equally long and finite."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Dot:
    """A named value with its interval; a bound that is None is not drawn.

    Dots of one name and different series share a row.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""


def dots_of(named: Iterable[tuple[str, Any]], series: str = "") -> list[Dot]:
    """Dots of (name, interval or bare number); an interval has "value", "low" and "high".

    What has no finite value is left out.
    """
    dots = []
    for name, found in named:
        row = found if isinstance(found, dict) else {"value": found}
        if (value := finite(row.get("value"))) is not None:
            low, high = finite(row.get("low")), finite(row.get("high"))
            dots.append(Dot(name, value, low, high, series))
    return dots


def points_of(
    rows: Iterable[Mapping[str, Any]], x_key: str, y_key: str
) -> list[tuple[float, float]]:
    """(x, y) of every row in which both are finite numbers."""
    pairs = [(finite(row.get(x_key)), finite(row.get(y_key))) for row in rows]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def thinned(name: str, points: Sequence[tuple[float, float]], most: int) -> Line:
    """A line of at most ``most`` points, each the mean of neighbouring steps."""
    size = max(1, math.ceil(len(points) / most))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    xs = [sum(x for x, _ in part) / len(part) for part in parts]
    return Line(name, xs, [sum(y for _, y in part) / len(part) for part in parts])


def ends_of(dots: Sequence[Dot]) -> list[float]:
    """Every value and bound of the dots that is a number."""
    return [x for dot in dots for x in (dot.value, dot.low, dot.high) if is_finite(x)]


def is_finite(x: float | None) -> TypeGuard[float]:
    """Whether a bound is there and a number."""
    return x is not None and math.isfinite(x)
