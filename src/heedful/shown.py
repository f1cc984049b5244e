"""Numbers as pages show them, and what of a file counts as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Formatter = Callable[[float], str]


def finite(x: Any) -> float | None:
    """A number read from a file, None where it is no finite number."""
    is_number = isinstance(x, int | float) and not isinstance(x, bool)
    return float(x) if is_number and math.isfinite(x) else None


def number_text(x: float) -> str:
    """A number with about three significant digits, short enough for an axis."""
    if x == 0:
        return "0"
    if abs(x) >= 1e5 or abs(x) < 1e-3:
        digits, power = f"{x:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def count_text(x: float) -> str:
    """A large count in thousands, millions or billions."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if x >= unit:
            return f"{x / unit:.3g}{name}"
    return f"{x:.0f}"


def percent_text(x: float) -> str:
    """A share from 0 to 1 as a percentage."""
    return f"{100 * x:.3g} %"


def change_text(x: float) -> str:
    """A share as a number of percent without its sign: one decimal below 100, and no "-0"."""
    text = f"{100 * x:,.1f}" if abs(x) < 1 else f"{100 * x:,.0f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def interval_text(low: float, high: float, format: Formatter) -> str:
    """ "low to high", or "-" where a bound cannot be known, as of a single item."""
    if math.isfinite(low) and math.isfinite(high):
        return f"{format(low)} to {format(high)}"
    return "-"


def side_of(low: Any, high: Any, higher_is_better: Any) -> str:
    """ "better" or "worse" where the whole interval of a difference is on that side, else ""."""
    bounds = finite(low), finite(high)
    if bounds[0] is None or bounds[1] is None or not isinstance(higher_is_better, bool):
        return ""
    if bounds[0] <= 0 <= bounds[1]:
        return ""
    return "better" if (bounds[0] > 0) == higher_is_better else "worse"
