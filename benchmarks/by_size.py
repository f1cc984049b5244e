"""Win rates over model size, as a picture and a table, from a run at several sizes.

    python benchmarks/by_size.py runs/miniature-full --out docs/win-rate-by-size.svg

The picture is that of the report, with colours and legend of its own: it stands alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from heedful.paper_figures import paper_figures
from heedful.shown import count_text

COLOURS = ("#4269d0", "#e0782f", "#3ca951", "#9b59b6", "#d6484f", "#5f7f8c")
STYLE = (
    "text{font:11px sans-serif;fill:#333}.grid{stroke:#ddd}.axis{stroke:#555}"
    ".reference{stroke:#555;stroke-dasharray:4 3}.line{fill:none;stroke-width:2}"
    ".interval{stroke-width:3;stroke-opacity:.4}"
)
LEGEND_HEIGHT = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = json.loads((options.run / "summary.json").read_text(encoding="utf-8"))["by_size"]
    figures = paper_figures({"by_size": rows}, {})[0].plots
    if not figures:
        print("the run has models of one size only: nothing to draw", file=sys.stderr)
        return 1
    options.out.write_text(picture(str(figures[0])), encoding="utf-8")
    print(table(rows))
    return 0


def picture(figure: str) -> str:
    """The drawing of a report's figure as an SVG file of its own, its legend below it."""
    drawing = re.search(r'<svg role="img".*?</svg>', figure, re.S)
    # a piece of the curve, or a dot where a method has one size
    legend = re.findall(r'<li>.*?class="(line|dot) (c\d)".*?</svg>([^<]*)', figure)
    assert drawing is not None
    width, height = (
        float(x) for x in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing[0])[0]
    )
    colours = "".join(
        f".line.c{i},.interval.c{i}{{stroke:{c}}}.dot.c{i}{{fill:{c}}}"
        for i, c in enumerate(COLOURS)
    )
    parts, x = [], 52.0
    for kind, colour, name in legend:
        y = height + LEGEND_HEIGHT / 2
        if kind == "line":
            parts.append(f'<polyline class="line {colour}" points="{x},{y} {x + 22},{y}"/>')
        else:
            parts.append(f'<circle class="dot {colour}" cx="{x + 11}" cy="{y}" r="4.5"/>')
        parts.append(f'<text x="{x + 27}" y="{y + 4}">{name}</text>')
        x += 45 + 7 * len(name)
    inner = re.sub(r"^<svg[^>]*>|</svg>$", "", drawing[0])
    whole = height + LEGEND_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{2 * width:.0f}" '
        f'viewBox="0 0 {width:.0f} {whole:.0f}"><style>{STYLE}{colours}</style>'
        f'<rect width="{width:.0f}" height="{whole:.0f}" fill="#fff"/>'
        f"{inner}{''.join(parts)}</svg>\n"
    )


def table(rows: list[dict]) -> str:
    """A Markdown table: a row per model, by method and size."""
    lines = [
        "| method | parameters | model | preferred to SFT (95 % interval) |",
        "|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["method"], row["parameters"])):
        bounds = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
        size = count_text(row["parameters"])
        lines.append(f"| {row['method']} | {size} | {row['model']} | {row['value']:.3f}{bounds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
