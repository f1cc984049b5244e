"""Figures of ``plots`` as PNG files, for slides and papers: the drawings of the page.

Reads what ``plots`` writes (a caption, one SVG of lines, polylines, circles, bars and texts, and a
legend) and nothing else. Drawn larger and made smaller again, which smooths the edges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from heedful.errors import MissingExtraError

STYLE = Path(__file__).parent / "report.css"
# Pixels of a file for each unit of a drawing, and how much larger it is drawn first.
SCALE, SMOOTH = 2, 2
_MOST_COLUMNS = 3
_PANEL, _GAP, _TITLE, _CAPTION, _LEGEND = 360.0, 24.0, 34.0, 22.0, 18.0
_FONT_SIZE, _CAPTION_SIZE, _TITLE_SIZE = 11.5, 13.0, 16.0
# Lengths of strokes and gaps of the curves, as in report.css.
_DASHES = {
    "reference": (5, 4),
    "line c1": (7, 3),
    "line c2": (2, 3),
    "line c3": (9, 3, 2, 3),
    "line c4": (4, 4),
    "line c5": (12, 4),
}
_SOFT = ("tick", "label")


def require_pillow() -> None:
    """Nothing; MissingExtraError where PNG files cannot be written."""
    try:
        import PIL.ImageDraw  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "PNG files of figures need Pillow, which is not installed: pip install "
            "'heedful[figures]', or leave them out with --png=false"
        ) from error


def write_png(path: Path, title: str, plots: Sequence[str]) -> None:
    """Writes figures (as ``plots`` returns them) beside each other into one file."""
    panels = [_Panel(ElementTree.fromstring(plot)) for plot in plots]
    columns = 2 if len(panels) == 4 else min(_MOST_COLUMNS, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    width = columns * _PANEL + (columns + 1) * _GAP
    page = _Canvas(width, _TITLE + _GAP / 2 + sum(heights) + _GAP * len(rows), SCALE)
    page.text(_GAP, _TITLE - 8, title, _TITLE_SIZE, "ink", "ls")
    top = _TITLE + _GAP / 2
    for row, tallest in zip(rows, heights, strict=True):
        for place, panel in enumerate(row):
            page.paste(panel.drawn(), _GAP + place * (_PANEL + _GAP), top)
        top += tallest + _GAP
    page.image.save(path, "PNG", compress_level=6)


@cache
def _colours() -> dict[str, tuple[int, int, int]]:
    """The page's colours on white by their names: those of report.css before its dark ones."""
    light = STYLE.read_text(encoding="utf-8").partition("}")[0]
    return {
        name: (int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16))
        for name, code in re.findall(r"--(\w+): #([0-9a-f]{6})", light)
    }


class _Panel:
    """One figure: its caption, drawing and legend."""

    def __init__(self, figure: ElementTree.Element):
        self.caption = figure.findtext("figcaption") or ""
        svg = figure.find("svg")
        self.parts = [] if svg is None else list(svg)
        box = "0 0 0 0" if svg is None else svg.attrib["viewBox"]
        self.drawing = float(box.split()[3])
        self.legend = [(item[0][0].attrib, item[0].tail or "") for item in figure.findall("ul/li")]
        self.height = _CAPTION + self.drawing + _LEGEND * len(self.legend)

    def drawn(self) -> _Canvas:
        canvas = _Canvas(_PANEL, self.height, SCALE * SMOOTH)
        canvas.text(0, 14, self.caption, _CAPTION_SIZE, "ink", "ls")
        for part in self.parts:
            _draw(canvas, part.tag, part.attrib, part.text or "", 0, _CAPTION)
        for row, (mark, name) in enumerate(self.legend):
            y = _CAPTION + self.drawing + _LEGEND * (row + 0.5)
            tag = "polyline" if "points" in mark else "circle"
            _draw(canvas, tag, mark, "", 20, y - 4)
            canvas.text(56, y + 4, name, _FONT_SIZE, "ink", "ls")
        return canvas


def _draw(
    canvas: _Canvas, tag: str, of: dict[str, str], text: str, left: float, top: float
) -> None:
    """Draws one element of an SVG at its place."""
    kind = of.get("class", "")
    number = {key: float(of[key]) for key in _PLACES & of.keys()}
    colour = kind.rpartition(" ")[2]
    if tag == "text":
        anchor = {"middle": "ms", "end": "rs"}.get(of.get("text-anchor", ""), "ls")
        shade = "soft" if kind in _SOFT else "ink"
        canvas.text(left + number["x"], top + number["y"], text, _FONT_SIZE, shade, anchor)
    elif tag == "circle":
        x, y, r = (number[key] for key in ("cx", "cy", "r"))
        canvas.circle(left + x, top + y, r, colour)
    elif tag == "rect":
        x, y = left + number["x"], top + number["y"]
        canvas.bar(x, y, x + number["width"], y + number["height"], colour)
    elif tag == "line":
        points = [(left + number[f"x{i}"], top + number[f"y{i}"]) for i in (1, 2)]
        thick, shade = {
            "grid": (1.0, "rule"),
            "axis": (1.0, "soft"),
            "reference": (1.5, "soft"),
        }.get(kind, (3.0, colour))
        canvas.line(points, thick, shade, _DASHES.get(kind, ()), 0.55 if thick == 3.0 else 1.0)
    elif tag == "polyline":
        pairs = (point.split(",") for point in of["points"].split())
        points = [(left + float(x), top + float(y)) for x, y in pairs]
        canvas.line(points, 2.0, colour, _DASHES.get(kind, ()))


_PLACES = {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}


class _Canvas:
    """A white picture that is drawn on in units of the drawings."""

    def __init__(self, width: float, height: float, zoom: int):
        from PIL import Image, ImageDraw

        self.width, self.height, self.zoom = width, height, zoom
        size = (round(width * zoom), round(height * zoom))
        self.image = Image.new("RGB", size, _colours()["page"])
        self.pen = ImageDraw.Draw(self.image)

    def paste(self, other: _Canvas, left: float, top: float) -> None:
        """Puts a larger drawing here, made as small as this one."""
        from PIL import Image

        size = (round(other.width * self.zoom), round(other.height * self.zoom))
        small = other.image.resize(size, Image.Resampling.LANCZOS)
        self.image.paste(small, (round(left * self.zoom), round(top * self.zoom)))

    def text(self, x: float, y: float, text: str, size: float, shade: str, anchor: str) -> None:
        at = (x * self.zoom, y * self.zoom)
        font = _font(round(size * self.zoom))
        self.pen.text(at, text, fill=_colours()[shade], font=font, anchor=anchor)

    def circle(self, x: float, y: float, r: float, shade: str) -> None:
        box = [(x - r) * self.zoom, (y - r) * self.zoom, (x + r) * self.zoom, (y + r) * self.zoom]
        self.pen.ellipse(box, fill=_colours()[shade])

    def bar(self, x1: float, y1: float, x2: float, y2: float, shade: str) -> None:
        box = [x1 * self.zoom, y1 * self.zoom, x2 * self.zoom, y2 * self.zoom]
        self.pen.rectangle(box, fill=_colours()[shade])

    def line(
        self,
        points: Sequence[tuple[float, float]],
        thick: float,
        shade: str,
        dashes: Sequence[float] = (),
        opacity: float = 1.0,
    ) -> None:
        """A line through the points, on white: what shines through is mixed into its colour."""
        fill = tuple(round(255 - opacity * (255 - part)) for part in _colours()[shade])
        for piece in _pieces(points, dashes) if dashes else [points]:
            scaled = [(x * self.zoom, y * self.zoom) for x, y in piece]
            self.pen.line(scaled, fill=fill, width=round(thick * self.zoom), joint="curve")


def _pieces(
    points: Sequence[tuple[float, float]], dashes: Sequence[float]
) -> list[list[tuple[float, float]]]:
    """The strokes of a dashed line: ``dashes`` are lengths of stroke and gap by turns."""
    pieces: list[list[tuple[float, float]]] = []
    turn, left = 0, dashes[0]
    piece = [points[0]]
    for (x1, y1), (x2, y2) in pairwise(points):
        length, done = math.hypot(x2 - x1, y2 - y1), 0.0
        while length - done > left:
            done += left
            at = (x1 + (x2 - x1) * done / length, y1 + (y2 - y1) * done / length)
            if turn % 2 == 0:
                pieces.append([*piece, at])
            piece = [at]
            turn += 1
            left = dashes[turn % len(dashes)]
        left -= length - done
        piece.append((x2, y2))
    if turn % 2 == 0:
        pieces.append(piece)
    return pieces


@cache
def _font(size: int) -> Any:
    """Pillow's own font, which needs no file of the system."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
