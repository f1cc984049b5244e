"""What labelers have said of the prompts of a project, counted: use cases and flags."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, case, cast, func, select

from heedful.store.answers import PROMPT_FLAGS
from heedful.store.tables import prompt_labels, prompts


@dataclass(frozen=True, slots=True)
class PromptSummary:
    """Counts over answers that label their prompt, prompts that were erased left out.

    ``flags`` has (flag, yes, no), in the order of the form. ``num_shared`` prompts have the use
    cases of several labelers, of which ``num_alike`` have one and the same of all.
    """

    num_labels: int
    num_prompts: int
    use_cases: dict[str, int]
    flags: tuple[tuple[str, int, int], ...]
    num_shared: int
    num_alike: int


def version(connection: Connection, project_id: int) -> tuple[int, int, int]:
    """(labels, the newest, erased prompts): what changes with every summary; cheap to read.

    Labels are those of all projects.
    """
    num_labels, newest = connection.execute(
        select(func.count(), func.coalesce(func.max(prompt_labels.c.submission_id), 0))
    ).one()
    removed = (prompts.c.project_id == project_id) & (prompts.c.state == "removed")
    num_removed = connection.execute(select(func.count()).where(removed)).scalar_one()
    return num_labels, newest, num_removed


def summary(connection: Connection, project_id: int) -> PromptSummary:
    """The counts of a project, from all labels that stand."""
    mine = (prompts.c.project_id == project_id) & (prompts.c.state != "removed")
    # Few different answers are given many times: the database counts them, as the texts they are.
    said = cast(prompt_labels.c.flags, Text).label("said")
    groups = (
        select(prompt_labels.c.use_case, said, func.count().label("n"))
        .join(prompts, prompts.c.id == prompt_labels.c.prompt_id)
        .where(mine)
        .group_by(prompt_labels.c.use_case, said)
    )
    use_cases: Counter[str] = Counter()
    flags: Counter[tuple[str, bool]] = Counter()
    num_labels = 0
    for row in connection.execute(groups):
        num_labels += row.n
        if row.use_case is not None:
            use_cases[row.use_case] += row.n
        for flag, given in json.loads(row.said).items():
            if given is not None:
                flags[flag, given] += row.n
    by_prompt = (
        select(
            func.count(prompt_labels.c.use_case).label("n"),
            func.min(prompt_labels.c.use_case).label("first"),
            func.max(prompt_labels.c.use_case).label("last"),
        )
        .join(prompts, prompts.c.id == prompt_labels.c.prompt_id)
        .where(mine)
        .group_by(prompt_labels.c.prompt_id)
        .subquery()
    )
    several = by_prompt.c.n > 1
    alike = several & (by_prompt.c.first == by_prompt.c.last)
    counts: Any = connection.execute(
        select(
            func.count(), *(func.sum(case((one, 1), else_=0)) for one in (several, alike))
        ).select_from(by_prompt)
    ).one()
    num_prompts, num_shared, num_alike = counts
    names = [flag for flag in PROMPT_FLAGS if any((flag, yes) in flags for yes in (True, False))]
    names += sorted({flag for flag, _ in flags} - set(names))
    return PromptSummary(
        num_labels=num_labels,
        num_prompts=num_prompts,
        use_cases=dict(use_cases.most_common()),
        flags=tuple((name, flags[name, True], flags[name, False]) for name in names),
        num_shared=num_shared or 0,
        num_alike=num_alike or 0,
    )
