"""Measures of policies over a coefficient of their training (the paper's Figures 33 and 34)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from heedful.figure_parts import PaperFigure, Source, nlp_measures, numbers, plain
from heedful.figures import Row, rows_of
from heedful.plots import dots_of, size_chart
from heedful.shown import count_text, finite, number_text


def coefficient_figures(sources: Sequence[Source]) -> list[PaperFigure]:
    """Figures 33 and 34 of a run: its summary and what heed eval nlp has measured."""
    loop, *suites = sources
    measured = measured_of(loop.found, [source.found for source in suites])
    policies = [
        {
            **row,
            "values": {m: found.get(plain(str(row.get("model")))) for m, found in measured.items()},
        }
        for row in loop.rows("policies")
    ]
    bases = {measure: found.get("base") for measure, found in measured.items()}
    return figures_of(policies, bases, loop.command)


def figures_of(
    policies: Sequence[Row], bases: Mapping[str, Any], command: str
) -> list[PaperFigure]:
    """Figures 33 and 34 of policies: {"model", "parameters", "kl_coef", "ptx_coef", "values"}.

    ``values`` has an interval for each measure; ``bases`` has the base model's.
    """
    figures = []
    for number, key, title, note in (
        (33, "ptx_coef", "Tasks and score over the weight of pretraining text", ""),
        (34, "kl_coef", "Tasks and score over the KL coefficient", "Policies with ptx_coef 0. "),
    ):
        plots, rows = by_coefficient(policies, bases, key)
        made = f"heed ppo PPO.toml --ppo.{key}=NUMBER --run-dir DIR"
        needs = f"with at least two different {key} above 0, each measured as PPO-ptx is."
        figures.append(
            PaperFigure(
                number,
                title,
                f"{note}Dashed: the base model.",
                command if plots else made,
                plots,
                rows,
                needs,
            )
        )
    return figures


def measured_of(summary: Row, suites: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """{measure: {model: interval}} of what Figures 33 and 34 are drawn over."""
    found: dict[str, dict[str, Any]] = {}
    for source in (Source("", one, "") for one in (summary, *suites)):
        for measure, rows, _ in nlp_measures(source):
            found[measure] = {plain(str(row["model"])): row for row in rows}
    for row in rows_of(summary.get("tax_changes")):
        by_model = found.setdefault(str(row.get("measure", "?")), {})
        by_model.setdefault(plain(str(row.get("base"))), row.get("of_base"))
        by_model.setdefault(plain(str(row.get("model"))), row.get("of_model"))
    scores = {plain(str(row.get("model"))): row for row in rows_of(summary.get("score"))}
    return found | ({"reward-model score of held-out prompts": scores} if scores else {})


def by_coefficient(
    policies: Sequence[Row], bases: Mapping[str, Any], key: str
) -> tuple[list[str], list[Row]]:
    """(a plot for each measure, their rows) over ``ptx_coef`` or ``kl_coef``.

    A curve joins policies that differ in this coefficient alone; of ``kl_coef`` only those that saw
    no pretraining text. A measure without two such coefficients above 0 is left out.
    """
    plots, rows = [], []
    for measure in dict.fromkeys(name for policy in policies for name in policy["values"]):
        curves: dict[str, list[tuple[float, Any]]] = {}
        for policy in policies:
            x, others = finite(policy.get(key)), _others(policy, key)
            dots = dots_of([(str(policy.get("model", "?")), policy["values"].get(measure))])
            if x is not None and others is not None:
                curves.setdefault(others, []).extend((x, dot) for dot in dots)
        curves = {
            name: found for name, found in curves.items() if len({x for x, _ in found if x > 0}) > 1
        }
        base = dots_of([("base", bases.get(measure))])
        plot = size_chart(
            measure,
            curves,
            y_label=measure,
            reference=base[0].value if base else None,
            x_label=key,
            x_format=number_text,
            y_format=number_text,
        )
        if plot:
            plots.append(plot)
            rows += [
                {
                    "panel": measure,
                    "name": dot.name,
                    "series": curve,
                    key: x,
                    **numbers(dot),
                }
                for curve, found in curves.items()
                for x, dot in found
            ]
    return plots, rows


def _others(policy: Row, key: str) -> str | None:
    """What else a policy was trained with, by which curves are told apart; None: not of a curve."""
    size = finite(policy.get("parameters"))
    named = [] if size is None else [f"{count_text(size)} parameters"]
    if key == "kl_coef":
        return None if policy.get("ptx_coef") else ", ".join([*named, "ptx_coef 0"])
    kl = finite(policy.get("kl_coef"))
    return ", ".join([*named, *([] if kl is None else [f"kl_coef {number_text(kl)}"])])
