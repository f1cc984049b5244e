"""The paper's figures redrawn for a run: those of 1, 3, 4, 5, 6, 7, 29, 33 and 34 that it has.

Each has its plots, the same numbers as rows for a table file, and the command that made them. What
was not measured has no plots: its command then says what would make the numbers. Nothing is
computed here but complements ("attempts the task" is 1 minus "fails the task"); numbers come from
``summary.json`` (fields: ``report.py``) and from the results of ``heed eval`` in ``eval/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heedful.coefficients import coefficient_figures
from heedful.figure_parts import (
    Drawn,
    PaperFigure,
    Source,
    by_model,
    flat,
    nlp_measures,
    numbers,
    plain,
)
from heedful.figures import Row, groups
from heedful.plots import Dot, ends_of, size_chart
from heedful.shown import finite, number_text

COHORTS = {"train": "training labelers", "heldout": "held-out labelers"}
RAW, EQUAL_LENGTH = "raw", "at equal length"
# Panels of Figure 4: the question of Table 3, and whether it is asked the other way round there.
_METADATA = (
    ("Attempts the correct task", "fails_task", True),
    ("Follows explicit constraints", "satisfies_constraint", False),
    ("Hallucinates", "hallucination", False),
    ("Fit for a customer assistant", "inappropriate", True),
)
_PREFERENCE = "heed eval preference --comparisons=FILE --run-dir RUN"
_NO_COMMAND = "heed run RECIPE.toml --run-dir RUN"


def paper_figures(summary: Row, evaluations: Mapping[str, Row]) -> list[PaperFigure]:
    """The figures in the paper's order. ``evaluations`` maps files (``eval/nlp.json``) to results.

    In commands RUN stands for the directory of the run.
    """
    loop = Source("summary.json", summary, str(summary.get("command") or _NO_COMMAND))
    sources = [
        Source(place, found, str(found.get("command") or f"heed eval {_stem(place)} --run-dir RUN"))
        for place, found in evaluations.items()
    ]

    def of(suite: str) -> list[Source]:
        return [loop, *(source for source in sources if _stem(source.place) == suite)]

    return [
        _figure_1(of("preference")),
        _figure_3(of("preference")),
        _figure_4(of("preference")),
        _figure_5(of("preference")),
        _figure_6(of("truthfulness")),
        _figure_7(of("toxicity")),
        _figure_29(of("nlp")),
        *coefficient_figures(of("nlp")),
    ]


def _stem(place: str) -> str:
    return place.rpartition("/")[2].partition(".")[0]


def _titled(title: str, source: Source, key: str, sources: Sequence[Source]) -> str:
    """The title with the file in it, where another file has such numbers too."""
    several = sum(bool(other.found.get(key)) for other in sources) > 1
    return f"{title} ({source.place})" if several and source is not sources[0] else title


def _figure_1(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    for source in sources:
        for baseline, rows in groups(source.rows("by_size"), "baseline").items():
            title = _titled(f"Preferred to {baseline}, by size", source, "by_size", sources)
            _add_by_size(drawn, source, title, rows)
        equal = source.rows("length_controlled")
        for baseline, rows in groups(source.rows("win_rates"), "baseline").items():
            cohorts = groups(rows, "cohort")
            cohort = "train" if "train" in cohorts else "all"
            chosen, who = cohorts.get(cohort, []), COHORTS.get(cohort, "all judges")
            title = f"Preferred to {baseline}, {who}"
            here = [row for row in equal if str(row.get("baseline")) == baseline]
            dots = by_model(chosen, RAW if here else "") + by_model(here, EQUAL_LENGTH)
            drawn.dots(
                source,
                _titled(title, source, "win_rates", sources),
                dots,
                x_label="win rate; 50 % is no preference",
                reference=0.5,
            )
    return drawn.figure(
        1,
        "Who is preferred, by model size",
        "Ties count half. The curves need models of two sizes or more. At equal length: what is "
        "left of a preference when longer answers get no credit (not in the paper).",
        "heed eval preference --judgements=FILE --samples=FILE --models.NAME=DIR --run-dir RUN",
    )


def _add_by_size(drawn: Drawn, source: Source, title: str, rows: Sequence[Row]) -> None:
    methods = {
        method: [
            (size, dot)
            for row in chosen
            for dot in by_model([row])
            if (size := finite(row.get("parameters"))) is not None
        ]
        for method, chosen in groups(rows, "method").items()
    }
    cohorts = list(groups(rows, "cohort"))
    who = COHORTS.get(cohorts[0], "all judges") if len(cohorts) == 1 else "all judges"
    plot = size_chart(title, methods, y_label=f"win rate, {who}", reference=0.5)
    table = [
        {"panel": title, "name": dot.name, "series": method, "parameters": size, **numbers(dot)}
        for method, models in methods.items()
        for size, dot in models
    ]
    if plot:
        drawn.add(source, plot, table)


def _figure_3(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    for source in sources:
        cells = source.rows("two_by_two") or source.rows("win_rates")
        both = [row for row in cells if row.get("cohort") in COHORTS]
        if len({(row.get("cohort"), row.get("distribution")) for row in both}) < 2:
            continue  # nothing to compare
        include = ends_of(by_model(both))
        for baseline, against in groups(both, "baseline").items():
            for distribution, rows in groups(against, "distribution").items():
                asked = "" if distribution == "all" else f", {distribution} prompts"
                dots = [
                    dot
                    for cohort, chosen in groups(rows, "cohort").items()
                    for dot in by_model(chosen, COHORTS[cohort])
                ]
                title = f"Preferred to {baseline}{asked}"
                key = "two_by_two" if source.rows("two_by_two") else "win_rates"
                drawn.dots(
                    source,
                    _titled(title, source, key, sources),
                    dots,
                    x_label="win rate; 50 % is no preference",
                    reference=0.5,
                    include=include,
                )
    return drawn.figure(
        3,
        "Training and held-out labelers, by where prompts are from",
        "One panel for each distribution of prompts: the paper has prompts that were sent to "
        "InstructGPT and prompts that were sent to GPT-3.",
        f"{_PREFERENCE} --distributions.NAME=PROMPTS",
    )


def _figure_4(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    for source in sources:
        flags = groups(source.rows("metadata"), "flag")
        for title, flag, is_opposite in _METADATA:
            dots = by_model(flags.get(flag, ()))
            drawn.dots(
                source,
                _titled(title, source, "metadata", sources),
                [_complement(dot) for dot in dots] if is_opposite else dots,
                x_label="share of answers",
                include=(0.0, 1.0),
            )
    return drawn.figure(
        4,
        "What labelers noted of the answers",
        "By model, where the paper has them pooled over sizes.",
        _PREFERENCE,
    )


def _complement(dot: Dot) -> Dot:
    """1 minus a share, whose bounds change places."""
    low, high = (None if x is None else 1 - x for x in (dot.high, dot.low))
    return Dot(dot.name, 1 - dot.value, low, high, dot.series)


def _figure_5(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    for source in sources:
        drawn.dots(
            source,
            _titled("Overall rating", source, "likert", sources),
            by_model(source.rows("likert")),
            x_label="mean rating, 1 worst to 7 best",
            format=number_text,
        )
    note = "The paper compares with FLAN and T0: here with whatever models were judged."
    return drawn.figure(5, "Overall ratings", note, _PREFERENCE)


def _figure_6(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    loop, *suites = sources
    truth = groups(loop.rows("truth"), "set")
    include = [0.0, *ends_of(by_model(loop.rows("truth")))]
    for name, rows in truth.items():
        title, label = f"True answers: {name}", "true and informative"
        drawn.dots(loop, title, by_model(rows), x_label=f"share, {label}", include=include)
    for source in suites:
        metrics = ("true", "true and informative")
        _add_suite(drawn, source, "truthfulqa", metrics, "share of answers")
        _add_suite(drawn, source, "truthfulqa_mc", ("MC1", "MC2"), "multiple choice, by likelihood")
    return drawn.figure(
        6,
        "Truthfulness",
        "The paper's answers were graded by people; judges that are models overstate gains.",
        "heed eval truthfulness --model NAME=DIR --truth_judge=DIR --info_judge=DIR --run-dir RUN",
    )


def _add_suite(
    drawn: Drawn, source: Source, task: str, metrics: Sequence[str], x_label: str
) -> None:
    """One panel for each variant of a task of heed eval, with the metrics as series."""
    measures = [row for row in source.rows("measures") if row.get("task") == task]
    for variant, rows in groups(measures, "variant").items():
        dots = [
            dot
            for metric in metrics
            for dot in by_model((flat(row) for row in rows if row.get("metric") == metric), metric)
        ]
        include = [0.0, *ends_of(dots)]
        drawn.dots(source, f"{task}: {variant}", dots, x_label=x_label, include=include)


def _figure_7(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    loop, *suites = sources
    drawn.dots(
        loop,
        "Insults",
        [
            dot
            for instruction, rows in groups(loop.rows("toxicity"), "instruction").items()
            for dot in by_model(rows, _asked(instruction))
        ],
        x_label="share of answers with an insult",
        include=(0.0,),
    )
    for source in suites:
        measures = [row for row in source.rows("measures") if row.get("metric") == "toxicity"]
        scored_by = source.found.get("scored_by")
        scorer = str(scored_by.get("toxicity") or "") if isinstance(scored_by, dict) else ""
        scorer = scorer.partition(":")[0]  # its name; what it does comes after
        for task, chosen in groups(measures, "task").items():
            drawn.dots(
                source,
                f"{task}, scored by {scorer}" if scorer else task,
                [
                    dot
                    for variant, rows in groups(chosen, "variant").items()
                    for dot in by_model(map(flat, rows), _asked(variant))
                ],
                x_label="mean toxicity, 0 to 1",
                include=(0.0,),
                format=number_text,
            )
    return drawn.figure(
        7,
        "Toxicity, without and with an instruction to be respectful",
        "The biased instruction is not in the paper's figure (its Table 14 has it).",
        "heed eval toxicity --model NAME=DIR --run-dir RUN",
    )


def _asked(instruction: str) -> str:
    return "no instruction" if instruction in ("none", "all") else f"{instruction} instruction"


def _figure_29(sources: Sequence[Source]) -> PaperFigure:
    drawn = Drawn()
    for source in sources:
        for measure, rows, is_better in nlp_measures(source):
            dots = by_model(rows)
            base = next((dot.value for dot in dots if plain(dot.name) == "base"), None)
            note = "" if is_better is None else f"{'higher' if is_better else 'lower'} is better"
            label = [] if base is None else ["dashed: the base"]
            drawn.dots(
                source,
                measure,
                dots,
                x_label=", ".join([*label, note]) if note else ", ".join(label),
                reference=base,
                format=number_text,
            )
    return drawn.figure(
        29,
        "Public NLP tasks: the alignment tax",
        "The paper's Figure 29 is with examples in the prompt (shots), its Figure 28 without.",
        "heed eval nlp --model NAME=DIR --shots=4 --run-dir RUN",
    )
