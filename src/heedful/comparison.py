"""Several runs as one static HTML page: what they reached, and what they were set to.

Made by ``heed report RUN RUN ...`` of what ``comparison.json`` holds: "runs", "claims", "measures"
(with an interval for each run and differences to the first), "settings" that differ, "policies".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heedful.coefficients import figures_of, measured_of
from heedful.figure_parts import PaperFigure, numbers, plain
from heedful.figures import Row, groups, safe
from heedful.metrics import replacing
from heedful.paper_figures import COHORTS as COHORTS
from heedful.plots import dot_plot, dots_of
from heedful.png import require_pillow
from heedful.report import FIGURES_DIR, template, write_figures
from heedful.run_files import Run
from heedful.shown import number_text, percent_text

TEMPLATE = "comparison.html.jinja"
_SHARES = ("Preferred", "True", "Hallucinations", "Insults", "Reward model")


def write_comparison(
    found: Mapping[str, Any], runs: Mapping[str, Run], out: Path, *, png: bool = True
) -> Path:
    """``out``, after writing the page to it, and tables and pictures of its figures beside it."""
    if png:
        require_pillow()
    by_section = groups(found["measures"], "section")
    sections = {
        section: [_figure(*measure) for measure in groups(rows, "measure").items()]
        for section, rows in by_section.items()
    }
    sweeps = [figure for figure in _sweeps(found["policies"], runs) if figure.plots]
    page = template(TEMPLATE).render(
        **found,
        names=[run["name"] for run in found["runs"]],
        sections={
            section: (
                safe(plot for _, plot, _ in plots),
                by_section[section],
            )
            for section, plots in sections.items()
        },
        sweeps=[replace(figure, plots=safe(figure.plots)) for figure in sweeps],
        folder=f"{FIGURES_DIR}/",
        png=png,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = [
        PaperFigure(
            0,
            f"{section} of {', '.join(runs)}",
            "",
            "",
            [plot for _, plot, _ in plots],
            [row for _, _, rows in plots for row in rows],
            file=section.lower().replace(" ", "-"),
        )
        for section, plots in sections.items()
    ]
    write_figures([*drawn, *sweeps], out.parent / FIGURES_DIR, png=png)
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return out


def _figure(measure: str, rows: Sequence[Row]) -> tuple[str, str, Sequence[Row]]:
    """(measure, a plot with a row for each model and a dot for each run, the rows of its table)."""
    dots = [
        dot
        for row in rows
        for name, interval in row["runs"].items()
        for dot in dots_of([(str(row["model"]), interval)], name)
    ]
    is_rate = measure.startswith("Preferred")
    of = {dot.series for dot in dots}
    plot = dot_plot(
        measure if len(of) != 1 else f"{measure}: {of.pop()}",  # without a legend
        dots,
        x_label="win rate; 50 % is no preference" if is_rate else "with 95 % interval",
        reference=0.5 if is_rate else None,
        format=percent_text if measure.startswith(_SHARES) else number_text,
    )
    table = [
        {"panel": measure, "name": dot.name, "series": dot.series, **numbers(dot)} for dot in dots
    ]
    return measure, plot, table


def _sweeps(policies: Sequence[Row], runs: Mapping[str, Run]) -> list[PaperFigure]:
    """Figures 33 and 34 over the policies of all runs; the base is that of the first run."""
    measured = {name: measured_of(run.summary, run.results("nlp")) for name, run in runs.items()}
    given = [
        {
            **row,
            "model": f"{row['run']}: {row['model']}",
            "values": {
                measure: models.get(plain(str(row["model"])))
                for measure, models in measured[row["run"]].items()
            },
        }
        for row in policies
    ]
    first = next(iter(measured.values()))
    bases = {measure: models.get("base") for measure, models in first.items()}
    figures = figures_of(given, bases, f"heed report {' '.join(runs)}")
    # a run's own figures may stand in the same folder
    return [replace(figure, file=f"comparison-{figure.number}") for figure in figures]
