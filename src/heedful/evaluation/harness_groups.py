"""Means over the tasks of a group of lm-evaluation-harness, where the harness defines them (MMLU).

A group that defines none (a list of different data sets) has no line of its own.

Legend: ``S`` bootstrap samples, ``D`` tasks of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from heedful.evaluation.items import Metric, Row, Scores, Task
from heedful.statistics.intervals import Floats

PREFIX = "lm_eval:"


class GroupMean(NamedTuple):
    """A measure of a group: the mean of a measure of its tasks."""

    measure: str
    filters: Sequence[str] | None  # None: all that the tasks have
    by_size: bool  # a task counts by its documents, else as much as any other
    tasks: Sequence[str]  # with the prefix

    def takes(self, column: str) -> bool:
        """Whether it is over this measure of the rows, whose name has the filter behind it."""
        name, _, rest = column.partition(" (")
        said = rest.removesuffix(")") or "none"
        return name == self.measure and (self.filters is None or said in self.filters)

    def columns(self, column: str) -> list[str]:
        """The score columns of a measure in the group's rows."""
        return [column] if self.by_size else [_of_task(column, task) for task in self.tasks]


def group_tasks(
    rows: Sequence[Row], groups: Mapping[str, Sequence[GroupMean]]
) -> tuple[list[Task], list[Row]]:
    """The groups as tasks, and the rows of their tasks again as theirs.

    A model counts where it has rows of all tasks of a group.
    """
    tasks, found = [], []
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    for name, means in groups.items():
        parts = [by_task.get(task, []) for task in means[0].tasks]
        whole = set.intersection(*({row["model"] for row in part} for part in parts))
        own = [row for part in parts for row in part if row["model"] in whole]
        variant = ", ".join(sorted({row["variant"] for row in own}))
        found += [_row_of_group(row, name, variant, means) for row in own]
        metrics = _metrics(own, means)
        if metrics:
            tasks.append(Task(name, (), lambda paths, shots: iter(()), as_they_are, metrics))
    return tasks, found


def _row_of_group(row: Row, name: str, variant: str, means: Sequence[GroupMean]) -> Row:
    scores: Scores = {}
    for mean in means:
        for column, score in row["scores"].items():
            if mean.takes(column):
                scores[column if mean.by_size else _of_task(column, row["task"])] = score
    own = {key: f"{row['task']}/{row[key]}" for key in ("id", "cluster")}
    return row | own | {"task": name, "variant": variant, "scores": scores}


def _metrics(rows: Sequence[Row], means: Sequence[GroupMean]) -> dict[str, Metric]:
    better: dict[str, bool | None] = {}
    for row in rows:
        better |= row["facts"]["higher_is_better"]
    return {
        column: Metric(tuple(mean.columns(column)), "mean" if mean.by_size else mean_of_means, up)
        for mean in means
        for column, up in better.items()
        if mean.takes(column)
    }


def _of_task(column: str, task: str) -> str:
    return f"{column} of {task}"


def mean_of_means(means: Floats) -> Floats:
    """A statistic: the mean (S,) of the tasks' means (S, D), of those that have one."""
    return np.asarray(np.nanmean(means, axis=1))


def as_they_are(rows: Sequence[Row], graders: Any) -> list[Scores]:
    """The harness's own scores."""
    return [row["scores"] for row in rows]
