"""Which tasks of suites can be asked out of a directory of published files, before any is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from heedful.config import Evaluation, PPOConfig
from heedful.errors import ConfigError, DataError
from heedful.evaluation.items import MissingData, Task, locate
from heedful.evaluation.suite import SUITES, tasks_of


class Asked(NamedTuple):
    """Tasks with the paths of their files, and why others of the suites are left out."""

    tasks: list[tuple[Task, list[Path]]]
    left_out: list[str]
    named: frozenset[str]  # tasks that were named one by one: they are not left out


def asked_of(names: Sequence[str], data: Path) -> Asked:
    """The tasks of these suites, or with these names, whose files are there.

    Raises DataError where a file of a task that is named itself is missing, or where no task is
    left; ConfigError names the near ones of an unknown name.
    """
    named = frozenset(names) - SUITES.keys()
    tasks: list[tuple[Task, list[Path]]] = []
    missing: dict[str, str] = {}
    for task in tasks_of(names):
        try:
            tasks.append((task, locate(task, data)))
        except MissingData as error:
            missing[task.name] = str(error)
    if named & missing.keys() or not tasks:
        raise DataError("\n  ".join(["files are missing:", *missing.values()]))
    return Asked(tasks, list(missing.values()), named)


def suite_problems(config: PPOConfig) -> list[str]:
    """What is wrong with the suites that PPO is to ask while it trains."""
    wanted = config.eval
    if not config.eval_every and (wanted.text or wanted.suites):
        return ["eval.text and eval.suites need eval_every: give --eval_every=N"]
    try:
        if wanted.suites and wanted.data is not None and Path(wanted.data).is_dir():
            asked_of(wanted.suites, Path(wanted.data))
        else:
            tasks_of(wanted.suites)
    except (ConfigError, DataError) as error:
        return [f"eval.suites: {error}"]
    return []


def evaluation_rows(config: PPOConfig, iterations: int) -> list[tuple[str, str, str]]:
    """(name, value, note) of what PPO measures on the way, as a dry run says it."""
    wanted = config.eval
    if not config.eval_every:
        idle = "warning: eval_every is 0, so the settings of the group eval do nothing"
        return [("evaluations", "0", idle)] if wanted != Evaluation() else []
    count = math.ceil(iterations / config.eval_every)
    note = f"after every {config.eval_every:,} iterations and the last"
    rows = [("evaluations", f"{count:,}", note)]
    if wanted.suites and wanted.data is not None and not suite_problems(config):
        found = asked_of(wanted.suites, Path(wanted.data))
        names = [task.name for task, _ in found.tasks]
        rows.append(("tasks asked each time", f"{len(names):,}", ", ".join(names)))
        rows += [("task left out", "", line) for line in found.left_out]
    return rows
