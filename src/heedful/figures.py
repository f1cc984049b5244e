"""The figures of a run's summary: what heed evaluate and heed summarize measured, as inline SVG.

The fields of ``summary.json`` are listed in ``report.py``. Every function returns figures, none
where nothing was measured; what has no finite value is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from heedful.plots import Dot, dot_plot, dots_of, ends_of
from heedful.shown import change_text, percent_text

Row = Mapping[str, Any]

# Changes further out stand at the edge: of a base near 0 they are as large as one likes.
_CHANGE_LIMITS = (-1.5, 1.5)
# How a row of scores names the difference to another model: "minus SFT".
_MINUS = "minus "


def rows_of(found: Any) -> list[Row]:
    """The objects in what should be a list of objects; anything else is left out."""
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _by_model(rows: Iterable[Row]) -> list[Dot]:
    return dots_of((str(row.get("model", "?")), row) for row in rows)


def groups(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Rows by the text of one field, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(key) or "all"), []).append(row)
    return groups


def safe(plots: Iterable[str]) -> list[Any]:
    """Figures marked as HTML (they escape their own text), without empty ones."""
    from markupsafe import Markup

    return [Markup(plot) for plot in plots if plot]


def strengths(found: Mapping[str, Row]) -> list[Any]:
    """Bradley-Terry strengths, of each file of results that has them."""
    rows = {place: rows_of(one.get("bradley_terry")) for place, one in found.items()}
    several = sum(bool(chosen) for chosen in rows.values()) > 1
    return safe(
        dot_plot(
            f"Bradley-Terry strength{f' ({place})' if several else ''}",
            _by_model(chosen),
            x_label="log-odds of being preferred, mean 0",
            reference=0.0,
        )
        for place, chosen in rows.items()
    )


def behaviour(summary: Row) -> list[Any]:
    hallucination = {"asked about notes (probes)": rows_of(summary.get("hallucination"))}
    flagged = {
        name.replace("_", " ").replace("qa", "QA"): rows
        for name, rows in groups(rows_of(summary.get("flagged")), "prompts").items()
    }
    named = rows_of(summary.get("named"))
    return [
        *_rate_plots("Answers that name who is asked about", groups(named, "set")),
        *_rate_plots("Hallucinations", hallucination),
        *_rate_plots("Hallucinations flagged by labelers", flagged),
    ]


def _rate_plots(title: str, groups: Mapping[str, Sequence[Row]]) -> list[Any]:
    """One figure for each group of rates, all on one axis that begins at zero."""
    dots = {name: _by_model(rows) for name, rows in groups.items()}
    include = [0.0, *(x for found in dots.values() for x in ends_of(found))]
    label = "share of responses"
    return safe(
        dot_plot(f"{title}: {name}", found, x_label=label, include=include, format=percent_text)
        for name, found in dots.items()
    )


def tax_changes(rows: Sequence[Row]) -> list[Any]:
    """One figure for each model: its change against the base in every measure, on one axis."""
    dots = {
        model: dots_of((str(row.get("measure", "?")), row.get("better")) for row in chosen)
        for model, chosen in groups(rows, "model").items()
    }
    include = [0.0, *(x for found in dots.values() for x in ends_of(found))]
    base = str(rows[0].get("base", "the base")) if rows else ""
    return safe(
        dot_plot(
            f"{model} against {base}",
            found,
            x_label=f"% of {base}; right is better",
            reference=0.0,
            include=include,
            limits=_CHANGE_LIMITS,
            format=change_text,  # the unit stands once, below
        )
        for model, found in dots.items()
    )


def reward_model(found: Any) -> list[Any]:
    if not isinstance(found, dict):
        return []
    flat = {
        key.removeprefix("accuracy, "): value for key, value in found.items() if key != "baselines"
    }
    baselines = found.get("baselines")
    if isinstance(baselines, dict):
        flat |= {f"baseline: {name}": value for name, value in baselines.items()}
    dots = dots_of((key.replace("_", " "), value) for key, value in flat.items())
    label = "share of untied pairs put in the right order"
    return safe([dot_plot("Accuracy", dots, x_label=label, reference=0.5, format=percent_text)])


def scores(rows: Sequence[Row], gold: Sequence[Row]) -> list[Any]:
    """Scores by model, differences for each "minus <model>", and the true utility beside them."""
    plots = [dot_plot("Score", _by_model(rows), x_label="mean score of an answer")]
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith(_MINUS)):
        other = key.removeprefix(_MINUS)
        others = [row for row in rows if row.get("model") != other]
        dots = dots_of((str(row.get("model", "?")), row.get(key)) for row in others)
        title, label = f"Score minus that of {other}", "mean difference, prompt by prompt"
        plots.append(dot_plot(title, dots, x_label=label, reference=0.0))
    plots.append(
        dot_plot("Gold utility", _by_model(gold), x_label="mean true utility of an answer")
    )
    return safe(plots)
