"""The suites by name, the rows of a suite in a file, and what they add up to.

A row is one item with what a model said to it and its scores: all that a score needs, so that a
file of rows can be scored again without the model. Rows are appended as they come; a line that a
kill has cut is dropped, and what is missing is asked when the same command runs again.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heedful.errors import ConfigError, DataError, EvaluationError
from heedful.evaluation.bias import BIAS_TASKS
from heedful.evaluation.closed_domain import CLOSED_DOMAIN_TASKS
from heedful.evaluation.grading import Grader
from heedful.evaluation.items import Item, Metric, Row, Task
from heedful.evaluation.nlp import NLP_TASKS
from heedful.evaluation.toxicity import TOXICITY_TASKS, Scorer
from heedful.evaluation.truthfulness import TRUTHFULNESS_TASKS
from heedful.metrics import replacing
from heedful.shown import interval_text
from heedful.statistics.intervals import Floats, Interval, bootstrap

Key = tuple[str, str, str, str]  # model, task, variant, id


class Suite(NamedTuple):
    """Tasks that belong together; the version rises when prompts or scores change."""

    name: str
    version: int
    tasks: tuple[Task, ...]


SUITES = {
    suite.name: suite
    for suite in (
        Suite("truthfulness", 1, (*TRUTHFULNESS_TASKS, *CLOSED_DOMAIN_TASKS)),
        Suite("toxicity", 1, TOXICITY_TASKS),
        Suite("bias", 1, BIAS_TASKS),
        Suite("nlp", 1, NLP_TASKS),
    )
}
# Judges of written answers: the probability of "yes" to each (question, answer), None without one.
Judge = Callable[[Sequence[tuple[str, str]]], Sequence[float] | None]


def no_judge(answers: Sequence[tuple[str, str]]) -> None:
    """No verdicts: people or another judge grade the answers."""
    return None


@dataclass(frozen=True)
class Graders:
    """What scores texts that cannot be scored by rule."""

    toxicity: Scorer
    truth: Judge = no_judge
    informativeness: Judge = no_judge
    grades: Grader | None = None  # in the place of both


def find_suites(names: Sequence[str]) -> list[Suite]:
    """The suites of these names, "all" for all; ConfigError names the near ones of an unknown."""
    found: list[Suite] = []
    for name in (part.strip() for text in names for part in text.split(",")):
        if name == "all":
            found += SUITES.values()
        elif name in SUITES:
            found.append(SUITES[name])
        else:
            raise ConfigError(_unknown("suite", name, [*SUITES, "all"]))
    return list({suite.name: suite for suite in found}.values())


def find_tasks(suites: Sequence[Suite], names: Sequence[str]) -> dict[str, list[Task]]:
    """{suite: its tasks}, all or those of these names; ConfigError names the near ones."""
    known = {task.name: suite.name for suite in suites for task in suite.tasks}
    for name in names:
        if name not in known:
            raise ConfigError(_unknown("task", name, known))
    chosen = {
        suite.name: [task for task in suite.tasks if not names or task.name in names]
        for suite in suites
    }
    return {name: tasks for name, tasks in chosen.items() if tasks}


def tasks_of(names: Sequence[str]) -> list[Task]:
    """The tasks of these suites or with these names; ConfigError names the near ones."""
    known = {suite: part.tasks for suite, part in SUITES.items()}
    known |= {task.name: (task,) for part in SUITES.values() for task in part.tasks}
    found: dict[str, Task] = {}
    for name in (part.strip() for text in names for part in text.split(",")):
        if name not in known:
            raise ConfigError(_unknown("suite or task", name, known))
        found |= {task.name: task for task in known[name]}
    return list(found.values())


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    if near:
        return f"unknown {what} {name!r}: did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {what} {name!r}: known are {', '.join(names)}"


def key_of(row: Row) -> Key:
    """What no two rows of a suite share."""
    return row["model"], row["task"], row["variant"], row["id"]


def read_results(path: Path) -> list[Row]:
    """The rows of a suite's file, none where there is no file; a cut last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise DataError(
                    f"{path}, line {number}: not JSON ({error.msg}): remove the line, and the same "
                    "command asks that item again"
                ) from error
    return rows


def write_results(path: Path, rows: Iterable[Row]) -> None:
    """A suite's file with these rows in the place of what was there."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_row(item: Item, model: str, task: str, said: Row, seed: int) -> Row:
    """A row without its scores."""
    return {
        "model": model,
        "task": task,
        "variant": item.variant,
        "id": item.id,
        "cluster": item.cluster,
        "prompt": item.prompt,
        **({"choices": list(item.choices)} if item.choices else {}),
        **said,
        "facts": dict(item.facts),
        "seed": seed,
    }


def score_rows(task: Task, rows: Sequence[Row], graders: Graders) -> list[Row]:
    """The rows with their scores, made from nothing but the rows."""
    scores = task.score(rows, graders)
    return [row | {"scores": score} for row, score in zip(rows, scores, strict=True)]


class Measure(NamedTuple):
    """A metric of one model on one variant of a task, and its difference to the first model's.

    The difference is over the items that both have, drawn together.
    """

    task: str
    variant: str
    metric: str
    model: str
    num_items: int
    interval: Interval
    difference: Interval | None
    higher_is_better: bool | None

    def to_row(self) -> dict[str, Any]:
        """The JSON form."""
        difference = None if self.difference is None else self.difference.to_row()
        return self._asdict() | {"interval": self.interval.to_row(), "difference": difference}


def measures(
    tasks: Sequence[Task], rows: Sequence[Row], models: Sequence[str], *, seed: int = 0
) -> list[Measure]:
    """Every metric with its 95 % interval over clusters of items, the first model's first."""
    found = []
    by_group: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        group = by_group.setdefault((row["task"], row["variant"]), {})
        group.setdefault(row["model"], {})[row["id"]] = row
    for task in tasks:
        variants = [variant for name, variant in by_group if name == task.name]
        for variant in variants:
            group = by_group[task.name, variant]
            for name, metric in task.metrics.items():
                given = {m: columns_of(group.get(m, {}), metric) for m in models}
                given = {m: part for m, part in given.items() if part.values.size}
                first = next(iter(given), None)
                for model, part in given.items():
                    gap = None
                    if model != first and first is not None:
                        gap = paired(given[first], part, metric, seed)
                    value = interval_of(part.values, part.clusters, metric, seed)
                    found.append(
                        Measure(
                            task.name,
                            variant,
                            name,
                            model,
                            _num_scored(part, metric),
                            value,
                            gap,
                            metric.higher_is_better,
                        )
                    )
    return found


class Columns(NamedTuple):
    """The scores that a metric needs, by item."""

    ids: list[str]
    clusters: list[str]
    values: Floats  # (N, D), NaN where an item has no such score


def columns_of(rows: Mapping[str, Row], metric: Metric) -> Columns:
    """The items that have any of the metric's scores."""
    ids, clusters, values = [], [], []
    for name, row in rows.items():
        scores = [row["scores"].get(column) for column in metric.columns]
        if any(score is not None for score in scores):
            ids.append(name)
            clusters.append(row["cluster"])
            values.append([np.nan if score is None else score for score in scores])
    return Columns(
        ids, clusters, np.array(values, dtype=float).reshape(len(ids), len(metric.columns))
    )


def _num_scored(part: Columns, metric: Metric) -> int:
    """How many items a metric rests on."""
    if metric.counted is None:
        return len(part.ids)
    column = part.values[:, metric.columns.index(metric.counted)]
    return int((~np.isnan(column)).sum())


def interval_of(values: Floats, clusters: Sequence[str], metric: Metric, seed: int) -> Interval:
    """A metric with its bootstrap interval."""
    return bootstrap(values, clusters, statistic=metric.statistic, seed=seed)


def paired(first: Columns, other: Columns, metric: Metric, seed: int) -> Interval | None:
    """``other`` minus ``first`` on the items that both have; None where there are none."""
    places = {name: i for i, name in enumerate(first.ids)}
    both = [(places[name], i) for i, name in enumerate(other.ids) if name in places]
    if not both:
        return None
    left, right = (list(side) for side in zip(*both, strict=True))
    values = np.hstack([first.values[left], other.values[right]])
    width = first.values.shape[1]

    def statistic(means: Floats) -> Floats:
        if metric.statistic == "mean":
            return means[:, 1] - means[:, 0]
        if isinstance(metric.statistic, str):
            raise EvaluationError(f"unknown statistic {metric.statistic!r}")
        return metric.statistic(means[:, width:]) - metric.statistic(means[:, :width])

    clusters = [other.clusters[i] for i in right]
    return bootstrap(values, clusters, statistic=statistic, seed=seed)


def format_table(found: Sequence[Measure]) -> str:
    """The measures as lines for a terminal: value, interval, items, difference to the first."""
    lines: list[tuple[str, ...]] = [("task", "variant", "measure", "model", "value", "95 %", "n")]
    lines[0] += ("difference to the first",)
    for measure in found:
        value, gap = measure.interval, measure.difference
        bounds = "" if gap is None else interval_text(gap.low, gap.high, "{:+.3f}".format)
        lines.append(
            (
                measure.task,
                measure.variant,
                measure.metric,
                measure.model,
                f"{value.value:.3f}",
                interval_text(value.low, value.high, "{:.3f}".format),
                f"{measure.num_items:,}",
                "" if gap is None else f"{gap.value:+.3f} ({bounds})",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
