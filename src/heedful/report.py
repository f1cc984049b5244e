"""The report of a loop: its run directory as one static HTML page.

The page needs no network and no other file. It reads what is there and says of the rest that it
was not measured, so it can be written while a run is going on or after it was cut off. The paper's
figures that it shows are also written as tables and pictures, into ``figures/`` beside it.

Read from the run directory:

- ``claims.json``: a list of {"id", "claim", "paper", "value", "low", "high", "holds", "note"};
- ``stages/<name>/metrics.jsonl``: the rows of each stage, for the curves; of a step made by hand
  its own ``metrics.jsonl``, of a folder of such steps those of the steps;
- ``config.toml``, and ``env.json`` of the last step trained (or its own): "How to reproduce";
- ``eval/*.json`` (and ``stages/*/eval/*.json``): results of ``heed eval``, for the paper's figures;
- ``summary.json``: an object with any of these fields. An *interval* is "value", "low", "high"
  (low and high may be null); rates go from 0 to 1.

```
command        "heed run recipes/x.toml": how this run was started
world          "the miniature world": where the checks were made
seed           of the run
models         [{"name", "parameters", "path"}]
win_rates      [{"model", "baseline", "cohort", interval}]       cohort may be null: all labelers
length_controlled  [{"model", "baseline", "cohort", interval}]   win rates at equal length
by_size        [{"model", "method", "parameters", "baseline", "cohort", interval}]   win rates
policies       [{"model", "parameters", "kl_coef", "ptx_coef"}]  how PPO was set, for the models
likert         [{"model", interval, "n"}]                        1 worst to 7 best
metadata       [{"model", "flag", interval, "n"}]                share of "yes", Table 3
bradley_terry  [{"model", interval}]                             log-odds, mean 0
tax            [{"metric", "higher_is_better", "base": {interval}, "sft": ..., "ppo": ...,
                 "ppo_ptx": ...}]                                any model names may be used
tax_changes    [{"measure", "model", "base", "n", "higher_is_better", "of_base": {interval},
                 "of_model": ..., "difference": ..., "better": ..., "won_back": ...}]
                                                                 of heed eval tax; the last two
                                                                 may be null
truth          [{"model", "set", interval}]                      share of true answers
named          [{"model", "set", interval}]                      share that names who is asked about
toxicity       [{"model", "instruction", interval}]              share of answers with an insult
hallucination  [{"model", interval}]                             share, closed-domain probes
flagged        [{"model", "prompts", interval, "n"}]             share that labelers flag as one
reward_model   {"accuracy": {interval}, ..., "baselines": {"name": {interval} or number}}
gold           [{"model", interval}]                             true utility, where it is known
score          [{"model", interval, "minus <first>": {interval}}]    on held-out prompts
samples        [{"prompt", "use_case", "responses": {"model": "text"}}]
costs          [{"stage", "seconds", "tokens", "flops"}]
lineage        [{"stage", "output", "inputs": ["..."], "sha256"}]
```
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heedful import figures
from heedful.errors import MissingExtraError
from heedful.figure_parts import PaperFigure
from heedful.figures import Row, groups, rows_of, safe
from heedful.metrics import replacing
from heedful.paper_figures import paper_figures
from heedful.plots import bar_chart, line_chart, points_of, thinned
from heedful.png import require_pillow, write_png
from heedful.run_files import Run, read_run, read_stages, read_text
from heedful.shown import Formatter, finite, number_text, percent_text, side_of

TEMPLATE = "report.html.jinja"
# Where tables and pictures of the paper's figures are, beside the page.
FIGURES_DIR = "figures"
# How the run's own directory is called in commands on the page.
RUN = "RUN"
# Points drawn of one curve: neighbouring steps are averaged down to this many.
NUM_POINTS = 120
# Against the KL each point averages more steps, because both axes are noisy.
NUM_KL_POINTS = 25

# Title, and the last parts of the metric keys (after "/") that share the panel.
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("loss", "text_loss", "ptx_loss")),
    ("Accuracy", ("accuracy",)),
    ("Score", ("score",)),
    ("Gold utility", ("gold",)),
    ("KL to the reference", ("kl",)),
    ("Reward", ("reward",)),
    ("Entropy", ("entropy",)),
    ("Response length", ("length",)),
    ("Seconds of an evaluation", ("evaluate_s",)),
    ("Evaluation's share of the run's time", ("evaluate_share",)),
)
# Stages in the order in which they are shown; others follow by name. "ppo_1" is a round of "ppo".
_STAGES = {
    "pretrain": "Pretraining",
    "base": "Base",
    "base_large": "Large base",
    "sft": "SFT",
    "ppo_init": "PPO init",
    "reward": "Reward model",
    "ppo": "PPO",
    "ppo_ptx": "PPO-ptx",
}
# The models whose responses come first, next to each other; others follow.
_SIDE_BY_SIDE = ("base", "sft", "ppo", "ppo-ptx")
_PETAFLOP_S_DAY = 8.64e19


def write_report(run_dir: Path, out: Path, *, png: bool = True) -> Path:
    """``out``, after writing the page of ``run_dir`` to it; the directory may be incomplete.

    Tables of the paper's figures are written beside it, and with ``png`` pictures.
    """
    run = read_run(run_dir)
    if png:
        require_pillow()
    drawn = paper_figures(run.summary, run.evaluations)
    page = template(TEMPLATE).render(
        **_shown(run),
        problems=run.problems,
        paper_figures={figure.number: marked(figure, run_dir) for figure in drawn},
        folder=f"{FIGURES_DIR}/",
        png=png,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_figures(drawn, out.parent / FIGURES_DIR, png=png)
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return out


def _shown(run: Run) -> dict[str, Any]:
    """What the template shows beside the paper's figures; the run's problems are added to."""
    run_dir, summary, claims = run.path, run.summary, run.claims
    read = read_stages(run_dir, run.problems)
    stages = {name: read[name] for name in sorted(read, key=_place_of)}
    found = [summary, *run.results("preference")]
    metadata = next((one["metadata"] for one in found if one.get("metadata")), [])
    return {
        "name": run_dir.resolve().name,
        "claims": claims,
        "claim_counts": (sum(bool(claim.get("holds")) for claim in claims), len(claims)),
        "world": summary.get("world"),
        "seed": finite(summary.get("seed")),
        "models": _within(run_dir, rows_of(summary.get("models")), "path"),
        "strengths": figures.strengths({"summary.json": summary, **run.evaluations}),
        "metadata": _metadata_table(rows_of(metadata)),
        "behaviour": figures.behaviour(summary),
        "kl": _kl_plots(stages),
        "curves": _curve_plots(stages),
        "tax_figures": figures.tax_changes(rows_of(summary.get("tax_changes"))),
        "tax_changes": _whole_changes(rows_of(summary.get("tax_changes"))),
        "reward_model": figures.reward_model(summary.get("reward_model")),
        "score": figures.scores(rows_of(summary.get("score")), rows_of(summary.get("gold"))),
        "samples": _samples(summary.get("samples")),
        "cost_plots": _cost_plots(rows_of(summary.get("costs"))),
        "costs": _cost_table(rows_of(summary.get("costs"))),
        "lineage": _within(run_dir, rows_of(summary.get("lineage")), "inputs"),
        "command": summary.get("command"),
        "config": read_text(run_dir / "config.toml", run.problems),
        "env": run.env,
    }


def marked(figure: PaperFigure, run_dir: Path) -> PaperFigure:
    """The figure with its plots as HTML, and with RUN for the run's directory in its command."""
    command = figure.command
    for path in (run_dir.resolve(), run_dir):
        if path.name:  # the whole word: "demo" is not meant in recipes/demo.toml
            whole = rf"(?<![\w./-]){re.escape(str(path))}(?![\w.-])"
            command = re.sub(whole, RUN, command)
    return replace(figure, plots=figures.safe(figure.plots), command=command)


def write_figures(drawn: Sequence[PaperFigure], folder: Path, *, png: bool) -> None:
    """Writes the table and picture of every figure; those of figures without numbers go."""
    for figure in drawn:
        table, picture = (folder / f"{figure.name}.{ending}" for ending in ("csv", "png"))
        for old in (table, picture):
            old.unlink(missing_ok=True)
        if not figure.plots:
            continue
        folder.mkdir(exist_ok=True)
        heads = list(dict.fromkeys(key for row in figure.rows for key in row))
        with replacing(table) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, heads)
            rows.writeheader()
            rows.writerows(figure.rows)
        if png:
            title = f"Figure {figure.number}: {figure.title}" if figure.number else figure.title
            with replacing(picture) as partial:
                write_png(partial, title, figure.plots)


def template(name: str) -> Any:
    """A page of heedful to be filled in."""
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError as error:
        raise MissingExtraError("jinja2 is not installed: pip install 'heedful[train]'") from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _filter(number_text),
        "decimals": _filter("{:.3f}".format, unknown="?"),
        "percent": _filter(percent_text),
        "count": _filter("{:,.0f}".format),
    }
    return environment.get_template(name)


def _place_of(stage: str) -> tuple[int, bool, str]:
    """Where a stage stands in the page: by ``_STAGES``, earlier rounds first, then by name."""
    step, number = _step_and_round(stage)
    return list(_STAGES).index(step) if step in _STAGES else len(_STAGES), not number, stage


def _step_and_round(stage: str) -> tuple[str, str]:
    """("ppo", "1") of "ppo_1"; the round is empty where the name has none."""
    step, _, number = stage.rpartition("_")
    return (step, number) if number.isdigit() else (stage, "")


def _stage_title(stage: str) -> str:
    step, number = _step_and_round(stage)
    title = _STAGES.get(step, step.replace("_", " "))
    return f"{title}, round {number}" if number else title


def _filter(text: Formatter, unknown: str = "-") -> Callable[[Any], str]:
    """Writes what is a finite number with ``text``, and anything else as ``unknown``."""
    return lambda x: unknown if (found := finite(x)) is None else text(found)


def _within(run_dir: Path, rows: Sequence[Row], field: str) -> list[Row]:
    """Rows whose field is a path or a list of paths, those in the run directory relative to it."""
    root = run_dir.resolve()

    def relative(found: Any) -> Any:
        if isinstance(found, list):
            return [relative(path) for path in found]
        path = Path(str(found))
        return str(path.relative_to(root)) if path.is_relative_to(root) else found

    return [{**row, field: relative(row.get(field))} for row in rows]


def _metadata_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Flags by models: {"models": [...], "flags": {flag: (answers, [row or None per model])}}.

    ``answers`` is how many answers a share rests on, the fewest of any model.
    """
    models = list(groups(rows, "model"))
    flags = {}
    for flag, chosen in groups(rows, "flag").items():
        by_model = {str(row.get("model") or "all"): row for row in chosen}
        answers = min((n for row in chosen if (n := finite(row.get("n")))), default=None)
        cells = [by_model.get(model) for model in models]
        flags[flag.replace("_", " ")] = (answers, cells)
    return {"models": models, "flags": flags}


def _whole_changes(rows: Sequence[Row]) -> list[Row]:
    """The rows of tax_changes that have the intervals of their table, each with its side."""
    needed = ("of_base", "of_model", "difference")
    whole = [row for row in rows if all(isinstance(row.get(key), dict) for key in needed)]
    return [
        {**row, "side": side_of(gap.get("low"), gap.get("high"), row.get("higher_is_better"))}
        for row in whole
        for gap in (row["difference"],)
    ]


def _samples(found: Any) -> list[Row]:
    """Samples with the responses of ``_SIDE_BY_SIDE`` first."""

    def place(model: str) -> int:
        name = model.lower().replace("_", "-")
        return _SIDE_BY_SIDE.index(name) if name in _SIDE_BY_SIDE else len(_SIDE_BY_SIDE)

    return [
        {**row, "responses": {model: given[model] for model in sorted(given, key=place)}}
        for row in rows_of(found)
        if isinstance(given := row.get("responses"), dict)
    ]


def _kl_plots(stages: Mapping[str, Sequence[Row]]) -> list[Any]:
    plots = []
    for key, label in (("ppo/score", "reward-model score"), ("ppo/gold", "gold utility")):
        lines = [
            thinned(_stage_title(name), points, NUM_KL_POINTS)
            for name, rows in stages.items()
            if (points := points_of(rows, "ppo/kl", key))
        ]
        title = f"{label[0].upper()}{label[1:]} against KL"
        plots.append(
            line_chart(
                title, lines, x_label="KL to the reference, nats per response", y_label=label
            )
        )
    return safe(plots)


def _curve_plots(stages: Mapping[str, Sequence[Row]]) -> dict[str, list[Any]]:
    """Figures by stage: one panel for each kind of metric that the stage logged."""
    found = {}
    for stage, rows in stages.items():
        keys = list(dict.fromkeys(key for row in rows for key in row if "/" in key))
        plots = []
        for title, endings in _PANELS:
            lines = [
                thinned(key, points, NUM_POINTS)
                for key in keys
                if key.rsplit("/", 1)[1] in endings
                if (points := points_of(rows, "step", key))
            ]
            plots.append(line_chart(title, lines, x_label="step", y_label=title))
        plots += _suite_plots(rows, keys)
        found[stage] = safe(plots)
    return {_stage_title(stage): plots for stage, plots in found.items() if plots}


def _suite_plots(rows: Sequence[Row], keys: Sequence[str]) -> list[Any]:
    """A panel for each measure of a suite that step 3 asked on the way, a line for each variant."""
    panels: dict[str, list[Any]] = {}
    for key in keys:
        task, _, rest = key.removeprefix("eval/").partition(".")
        measure, _, variant = rest.partition(".")
        if key.startswith("eval/") and (points := points_of(rows, "step", key)):
            title = f"{task.replace('_', ' ')}: {measure.replace('_', ' ') or 'value'}"
            panels.setdefault(title, []).append(thinned(variant or task, points, NUM_POINTS))
    return [
        line_chart(title, lines, x_label="step", y_label=title) for title, lines in panels.items()
    ]


def _cost_plots(rows: Sequence[Row]) -> list[Any]:
    plots = []
    for key, title, label in (("seconds", "Time", "seconds"), ("flops", "Compute", "FLOPs")):
        bars = [
            (str(row.get("stage", "?")), value)
            for row in rows
            if (value := finite(row.get(key))) is not None
        ]
        plots.append(bar_chart(title, bars, x_label=label))
    return safe(plots)


def _cost_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The stages' costs with a last row of totals, FLOPs also in petaflop/s-days."""
    if not rows:
        return []
    keys = ("seconds", "tokens", "flops")
    table = [
        {"stage": row.get("stage"), **{key: finite(row.get(key)) for key in keys}} for row in rows
    ]
    total = {key: sum(row[key] for row in table if row[key] is not None) for key in keys}
    table.append({"stage": "total", **total})
    for row in table:
        row["pf_days"] = None if row["flops"] is None else row["flops"] / _PETAFLOP_S_DAY
    return table
