"""Small plots as inline SVG: a line chart, an interval dot plot and a bar chart.

Each function returns one ``<figure>``: the drawing with a title and a description for screen
readers, a legend where there is one, and the same numbers as a table, folded away. Nothing is
fetched and no script runs. Colours are CSS classes (``c0`` ... ``c5``) that the page defines, so
one drawing serves light, dark and print; lines also differ by their dashes. All text is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape as escape_html
from textwrap import wrap

from heedful.points import Dot as Dot
from heedful.points import Line as Line
from heedful.points import dots_of as dots_of
from heedful.points import ends_of as ends_of
from heedful.points import is_finite
from heedful.points import points_of as points_of
from heedful.points import thinned as thinned
from heedful.shown import Formatter, count_text, number_text, percent_text

NUM_COLOURS = 6

# Drawing units; a figure is about 340 CSS pixels wide, on a desk (three in a row) and on a phone.
_WIDTH = 360.0
_LINE_HEIGHT = 230.0
_AXIS_HEIGHT = 40.0
_ROW_HEIGHT = 24.0
_SERIES_HEIGHT = 15.0
_NAME_HEIGHT = 13.0
_VALUE_WIDTH = 56.0
_LETTER_WIDTH = 6.5
_NAME_LETTERS = 26
# What no XML may hold, not even escaped (XML 1.0, section 2.2: Char).
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """A figure of curves over a common x axis, with a legend where there is more than one."""
    lines = [line for line in lines if len(line.xs)]
    if not lines:
        return ""
    left, right, bottom = 52.0, _WIDTH - 12, _LINE_HEIGHT - _AXIS_HEIGHT
    top = 8.0 if y_label == title else 26.0  # room for the label above the axis
    x_scale = _Scale.over([x for line in lines for x in line.xs], left, right)
    y_scale = _Scale.over([y for line in lines for y in line.ys], bottom, top)
    parts = [] if y_label == title else [_text(4, 13, y_label, "label")]
    x_ticks = [(x_scale(tick), number_text(tick)) for tick in x_scale.ticks()]
    parts += _axes(y_scale, number_text, left, right, x_ticks, x_label)
    for place, line in enumerate(lines):
        colour = f"c{place % NUM_COLOURS}"
        points = [(x_scale(x), y_scale(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        if len(points) == 1:
            parts.append(_circle(*points[0], colour))
        else:
            parts.append(_curve(points, colour))
    description = f"{y_label} over {x_label}. " + " ".join(
        f"{line.name}: from {number_text(line.ys[0])} to {number_text(line.ys[-1])}."
        for line in lines
    )
    legend = _legend([(line.name, len(line.xs) > 1) for line in lines]) if len(lines) > 1 else ""
    drawing = _svg(title, description, _LINE_HEIGHT, parts)
    return _figure(title, drawing, legend, _line_table(lines, x_label))


def size_chart(
    title: str,
    methods: Mapping[str, Sequence[tuple[float, Dot]]],
    *,
    y_label: str,
    reference: float | None,
    x_label: str = "parameters",
    x_format: Formatter = count_text,
    y_format: Formatter = percent_text,
) -> str:
    """A figure of values over model sizes, or over another x (log scale): a curve per method.

    ``methods`` gives (x, value with its interval) of each model; models of one method and x are
    seeds, and the curve goes through their mean. An x of 0 stands left of the others. Empty unless
    there are two sizes.
    """
    sizes = sorted({size for models in methods.values() for size, _ in models if size >= 0})
    if len(sizes) < 2 or not sizes[-1]:
        return ""
    left, right, bottom, top = 52.0, _WIDTH - 24, _LINE_HEIGHT - _AXIS_HEIGHT, 26.0
    logs = [math.log10(size) for size in sizes if size]
    zero = logs[0] - max(0.25 * (logs[-1] - logs[0]), 0.3)
    places = {size: math.log10(size) if size else zero for size in sizes}
    x_scale = _Scale.over(list(places.values()), left + 12, right)
    ends = ends_of([dot for models in methods.values() for _, dot in models])
    y_scale = _Scale.over([*ends, *([] if reference is None else [reference])], bottom, top)
    parts = [_text(4, 13, y_label, "label")]
    x_ticks = _apart([(x_scale(places[size]), x_format(size)) for size in sizes])
    parts += _axes(y_scale, y_format, left, right, x_ticks, x_label)
    if reference is not None:
        parts.append(_rule(left, y_scale(reference), right, y_scale(reference), "reference"))
    for place, models in enumerate(methods.values()):
        colour = f"c{place % NUM_COLOURS}"
        points = []
        for size in sorted({size for size, _ in models if size in places}):
            x, dots = x_scale(places[size]), [dot for found, dot in models if found == size]
            mean = sum(dot.value for dot in dots) / len(dots)
            points.append((x, y_scale(mean)))
            for dot in dots:
                if is_finite(dot.low) and is_finite(dot.high):
                    low, high = y_scale(dot.low), y_scale(dot.high)
                    parts.append(_rule(x, low, x, high, f"interval {colour}"))
                parts.append(_circle(x, y_scale(dot.value), colour))
        if len(points) > 1:
            parts.append(_curve(points, colour))
    rows = [
        [method, x_format(size), dot.name, y_format(dot.value) + _bounds(dot, y_format)]
        for method, models in methods.items()
        for size, dot in sorted(models, key=lambda found: found[0])
    ]
    description = f"{y_label} over {x_label}. " + " ".join(
        f"{method}, {size}: {found}." for method, size, _, found in rows
    )
    drawing = _svg(title, description, _LINE_HEIGHT, parts)
    table = _table(["method", x_label, "model", y_label], rows)
    has_curve = {method: len({size for size, _ in found}) > 1 for method, found in methods.items()}
    legend = _legend(list(has_curve.items())) if any(has_curve) else ""
    return _figure(title, drawing, legend, table)


def dot_plot(
    title: str,
    dots: Sequence[Dot],
    *,
    x_label: str,
    reference: float | None = None,
    include: Sequence[float] = (),
    limits: tuple[float, float] = (-math.inf, math.inf),
    format: Formatter = number_text,
) -> str:
    """A figure with one row per name: a dot on its interval, and a dashed line to compare with.

    Dots of several series stand below each other in their row, each series in its colour. The axis
    also holds every number in ``include``: figures that are to be compared share theirs. It ends
    at the ``limits``: beyond them an arrow at the edge stands for the dot; its number is as it is.
    """
    dots = [dot for dot in dots if math.isfinite(dot.value)]
    if not dots:
        return ""
    series = list(dict.fromkeys(dot.series for dot in dots))
    rows = _rows_of(dots)
    names_of = [_wrapped(row[0].name) for row in rows]
    heights = [
        max(_ROW_HEIGHT, _SERIES_HEIGHT * len(row) + 7, _NAME_HEIGHT * len(lines) + 9)
        for row, lines in zip(rows, names_of, strict=True)
    ]

    def within(x: float) -> float:
        return min(max(x, limits[0]), limits[1])

    ends = [*include, *ends_of(dots), *([] if reference is None else [reference])]
    ends = [within(x) for x in ends]
    bottom = 6 + sum(heights)
    names = _name_width([line for lines in names_of for line in lines])
    scale = _Scale.over(ends, names + 8, _WIDTH - _VALUE_WIDTH - 8)
    scale = replace(scale, low=max(scale.low, limits[0]), high=min(scale.high, limits[1]))
    parts = _bottom_axis(scale, bottom, x_label, format)
    if reference is not None:
        parts.append(_rule(scale(reference), 4, scale(reference), bottom, "reference"))
    for number, row in enumerate(rows):
        middle = 6 + sum(heights[:number]) + heights[number] / 2
        for place, line in enumerate(names_of[number]):
            y = middle + _NAME_HEIGHT * (place - (len(names_of[number]) - 1) / 2)
            parts.append(_text(names, y + 4, line, "name", "end"))
        for place, dot in enumerate(row):
            y = middle + _SERIES_HEIGHT * (place - (len(row) - 1) / 2)
            colour = f"c{series.index(dot.series) % NUM_COLOURS}"
            if is_finite(dot.low) and is_finite(dot.high):
                low, high = scale(within(dot.low)), scale(within(dot.high))
                parts.append(_rule(low, y, high, y, f"interval {colour}"))
            x = scale(within(dot.value))
            parts += (
                [_circle(x, y, colour)]
                if within(dot.value) == dot.value
                else _arrow(x, y, 1.0 if dot.value > limits[1] else -1.0, colour)
            )
            parts.append(_text(_WIDTH - 4, y + 4, format(dot.value), "value", "end"))
    named = [(", ".join(part for part in (dot.name, dot.series) if part), dot) for dot in dots]
    description = f"{x_label}. " + " ".join(
        f"{name}: {format(dot.value)}{_bounds(dot, format)}." for name, dot in named
    )
    cells = [
        [name, *(format(x) if is_finite(x) else "-" for x in (dot.value, dot.low, dot.high))]
        for name, dot in named
    ]
    table = _table(["", "value", "low", "high"], cells)
    legend = _legend([(name, False) for name in series]) if len(series) > 1 else ""
    return _figure(title, _svg(title, description, bottom + 42, parts), legend, table)


def _rows_of(dots: Sequence[Dot]) -> list[list[Dot]]:
    """The dots of each row: those of one name, of each series one."""
    rows: list[list[Dot]] = []
    for dot in dots:
        fits = (row for row in rows if row[0].name == dot.name)
        row = next((row for row in fits if all(dot.series != one.series for one in row)), None)
        if row is None:
            rows.append([dot])
        else:
            row.append(dot)
    return rows


def bar_chart(
    title: str, bars: Sequence[tuple[str, float]], *, x_label: str, format: Formatter = number_text
) -> str:
    """A figure with one horizontal bar per (name, value), all from zero; values are 0 or more."""
    bars = [(name, value) for name, value in bars if math.isfinite(value) and value >= 0]
    if not bars:
        return ""
    bottom = 6 + _ROW_HEIGHT * len(bars)
    longest = max(value for _, value in bars) or 1.0
    names = _name_width([name for name, _ in bars])
    scale = _Scale(0.0, longest, names + 8, _WIDTH - _VALUE_WIDTH - 12)
    parts = [_text((scale.start + scale.end) / 2, bottom + 18, x_label, "label", "middle")]
    for row, (name, value) in enumerate(bars):
        y = 6 + _ROW_HEIGHT * (row + 0.5)
        width = max(scale(value) - scale.start, 1.0)
        parts.append(_name(name, names, y))
        parts.append(
            f'<rect class="bar c0" x="{scale.start:.1f}" y="{y - 8:.1f}" '
            f'width="{width:.1f}" height="16"/>'
        )
        parts.append(_text(scale.start + width + 5, y + 4, format(value), "value"))
    description = f"{x_label}. " + " ".join(f"{name}: {format(value)}." for name, value in bars)
    table = _table(["", x_label], [[name, format(value)] for name, value in bars])
    return _figure(title, _svg(title, description, bottom + 26, parts), "", table)


@dataclass(frozen=True, slots=True)
class _Scale:
    """A linear map from data (low..high) to drawing units (start..end)."""

    low: float
    high: float
    start: float
    end: float

    @staticmethod
    def over(values: Sequence[float], start: float, end: float) -> _Scale:
        """A scale that holds all values, with a little room; a single value sits in the middle."""
        low, high = min(values), max(values)
        high = high or (1.0 if low == 0 else 0.0)  # zeros alone: nothing is below them
        room = 0.04 * (high - low) or 0.5 * abs(low) or 1.0
        return _Scale(low - room, high + room, start, end)

    def __call__(self, x: float) -> float:
        return self.start + (x - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers (1, 2 or 5 times a power of ten apart) within the scale, two or more."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= 0.7 * rough)
        first = math.ceil(self.low / step)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step) + 1)]


def _axes(
    y_scale: _Scale,
    y_format: Formatter,
    left: float,
    right: float,
    x_ticks: Sequence[tuple[float, str]],
    x_label: str,
) -> list[str]:
    """The grid with its numbers on the left, and the axis below with ticks at (x, text)."""
    bottom, parts = _LINE_HEIGHT - _AXIS_HEIGHT, []
    for tick in y_scale.ticks():
        y = y_scale(tick)
        parts.append(_rule(left, y, right, y, "grid"))
        parts.append(_text(left - 6, y + 4, y_format(tick), "tick", "end"))
    for x, text in x_ticks:
        parts.append(_rule(x, bottom, x, bottom + 4, "axis"))
        parts.append(_text(x, bottom + 18, text, "tick", "middle"))
    parts.append(_rule(left, bottom, right, bottom, "axis"))
    return [*parts, _text((left + right) / 2, _LINE_HEIGHT - 6, x_label, "label", "middle")]


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The ticks without those whose texts would run into the one before."""
    kept: list[tuple[float, str]] = []
    for x, text in ticks:
        if not kept or x - kept[-1][0] > _LETTER_WIDTH * (len(text + kept[-1][1]) / 2 + 1):
            kept.append((x, text))
    return kept


def _bottom_axis(scale: _Scale, y: float, label: str, format: Formatter) -> list[str]:
    parts = [_rule(scale.start, y, scale.end, y, "axis")]
    for most in (4, 3, 2, 1):
        ticks = [(scale(tick), format(tick)) for tick in scale.ticks(most)]
        if _apart(ticks) == ticks:
            break
    for x, text in _apart(ticks):
        parts.append(_rule(x, 4, x, y, "grid"))
        parts.append(_text(x, y + 16, text, "tick", "middle"))
    return [*parts, _text((scale.start + scale.end) / 2, y + 34, label, "label", "middle")]


def _bounds(dot: Dot, format: Formatter) -> str:
    if not (is_finite(dot.low) and is_finite(dot.high)):
        return ""
    return f", 95 % interval {format(dot.low)} to {format(dot.high)}"


def _name_width(names: Sequence[str]) -> float:
    return _LETTER_WIDTH * min(_NAME_LETTERS, max(map(len, names))) + 4


def _name(name: str, width: float, y: float) -> str:
    shown = name if len(name) <= _NAME_LETTERS else name[: _NAME_LETTERS - 1] + "…"
    return _text(width, y + 4, shown, "name", "end")


def escape(text: str) -> str:
    """A text as HTML and XML may hold it: escaped, with a mark for each character of neither."""
    return escape_html(_NOT_IN_XML.sub("\ufffd", text))


def _wrapped(name: str) -> list[str]:
    """A name in lines of the width that names have, four at most."""
    return wrap(name, _NAME_LETTERS, max_lines=4, placeholder="…") or [""]


def _arrow(x: float, y: float, side: float, colour: str) -> list[str]:
    """The head of an arrow at the edge, to the right where ``side`` is 1, to the left where -1."""
    kind = f"interval {colour}"
    back = x - 7 * side
    return [_rule(back, y - 6, x, y, kind), _rule(back, y + 6, x, y, kind)]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _circle(x: float, y: float, colour: str) -> str:
    return f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH:.0f} {height:.0f}"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def _curve(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line {colour}" points="{path}"/>'


def _legend(named: Sequence[tuple[str, bool]]) -> str:
    """The names with their marks: a piece of the curve, or a dot where nothing else is drawn."""
    items = []
    for place, (name, is_curve) in enumerate(named):
        colour = f"c{place % NUM_COLOURS}"
        mark = (
            f'<polyline class="line {colour}" points="0,4 28,4"/>'
            if is_curve
            else f'<circle class="dot {colour}" cx="14" cy="4" r="4"/>'
        )
        items.append(
            f'<li><svg viewBox="0 0 28 8" aria-hidden="true">{mark}</svg>{escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _line_table(lines: Sequence[Line], x_label: str) -> str:
    columns = [dict(zip(line.xs, line.ys, strict=True)) for line in lines]
    rows = [
        [number_text(x), *(number_text(column[x]) if x in column else "-" for column in columns)]
        for x in sorted({x for column in columns for x in column})
    ]
    return _table([x_label, *(line.name for line in lines)], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # A column of names has no heading, and an empty heading would be read out as one.
    head = "".join(f'<th scope="col">{escape(one)}</th>' if one else "<td></td>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(title: str, drawing: str, legend: str, table: str) -> str:
    return (
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption>{drawing}{legend}'
        f'<details><summary>Numbers</summary><div class="scroll" tabindex="0">{table}</div>'
        "</details></figure>"
    )
