"""Tasks of lm-evaluation-harness within heed eval nlp: asked once for each model, kept as rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heedful.config import EvalConfig
from heedful.errors import ConfigError
from heedful.evaluation.answering import context_of
from heedful.evaluation.harness import (
    LOCAL,
    Asked,
    ask,
    find,
    load_model,
    require_harness,
    task_manager,
)
from heedful.evaluation.harness_groups import PREFIX, GroupMean
from heedful.evaluation.items import Row
from heedful.models.device import pick_device, tokens_at_a_time
from heedful.models.language_model import load_config

SUITE = "nlp"
# Tokens at a time of a model whose configuration names no context.
CONTEXT = 2048


class Harness(NamedTuple):
    """The harness's tasks that are asked for, and where they are found."""

    manager: Any
    tasks: list[Asked]
    version: str

    def groups(self) -> dict[str, Sequence[GroupMean]]:
        """The means that the harness defines over the tasks of groups."""
        return {name: means for asked in self.tasks for name, means in asked.groups.items()}


def split_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(names of our tasks, names of the harness's), in their order; commas separate names too."""
    single = [part.strip() for text in names for part in text.split(",") if part.strip()]
    theirs = [name for name in single if name.startswith(PREFIX)]
    return [name for name in single if name not in theirs], theirs


def find_harness(config: EvalConfig, suites: Sequence[str], run_dir: Path) -> Harness | None:
    """The harness's tasks that the settings name, None where they name none."""
    _, names = split_names(config.tasks)
    if not names:
        return None
    if SUITE not in suites:
        raise ConfigError(f"{names[0]} belongs to the suite nlp: heed eval nlp --tasks={names[0]}")
    if config.rescore:
        raise ConfigError(f"{names[0]}: lm-evaluation-harness has scored its rows itself; leave it")
    version = require_harness().__version__
    task_files = None if config.task_files is None else Path(config.task_files)
    manager = task_manager(Path(config.data), task_files, run_dir / LOCAL, names)
    return Harness(manager, find(manager, names, config.limit), version)


def ask_harness(
    config: EvalConfig,
    harness: Harness,
    known: set[tuple[str, str, str]],
    keep: Callable[[list[Row]], None],
    progress: Callable[[int, int], None],
) -> None:
    """Asks every model the tasks of which rows are missing, and keeps the new rows.

    ``known`` has the (model, task, id) of the rows that there are.
    """
    known = set(known)  # groups may have tasks in common
    total, done = len(config.models) * len(harness.tasks), 0
    for name, path in config.models.items():
        model = None
        for asked in harness.tasks:
            if not {(name, *key) for key in asked.row_keys()} <= known:
                if model is None:
                    context = context_of(load_config(path)) or CONTEXT
                    # its logits are of the model's dtype: those of bfloat16 differ by 1 in 100
                    dtype = config.compute.dtype
                    dtype = "float32" if dtype == "auto" else dtype
                    device = str(pick_device(config.compute.device))
                    budget = tokens_at_a_time(config.compute)
                    model = load_model(path, dtype, device, context, budget)
                rows = ask(
                    harness.manager,
                    asked,
                    model,
                    shots=config.shots,
                    limit=config.limit,
                    seed=config.seed,
                    run_code=config.run_code,
                )
                rows = [{"model": name, **row} for row in rows]
                _say_cut(asked, rows, path, model.max_length)
                keep([row for row in rows if (name, row["task"], row["id"]) not in known])
                known |= {(name, row["task"], row["id"]) for row in rows}
            done += 1
            progress(done, total)


def _say_cut(asked: Asked, rows: Sequence[Row], path: str, context: int) -> None:
    num = sum(row["facts"]["cut"] for row in rows)
    if num:
        print(
            f"{asked.name}: {num:,} of {len(rows):,} prompts are longer than the {context:,} "
            f"tokens that {path} reads at a time: {len(rows) - num:,} fit, of the others the "
            "harness cut the beginning; give fewer --shots",
            file=sys.stderr,
        )
