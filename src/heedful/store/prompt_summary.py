"""What labelers have said of the prompts of a project, counted: use cases and flags."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Text, case, cast, func, select

from heedful.store.answers import PROMPT_FLAGS
from heedful.store.tables import assignments, prompt_labels, prompts, submissions


@dataclass(frozen=True, slots=True)
class PromptSummary:
    """Counts over answers that label their prompt, prompts that were erased left out.

    ``flags`` has (flag, yes, no), in the order of the form. ``num_shared`` prompts have the use
    cases of several labelers, of which ``num_alike`` have one and the same of all; of a labeler who
    has named several for a prompt it is the newest.
    """

    num_labels: int
    num_prompts: int
    use_cases: dict[str, int]
    flags: tuple[tuple[str, int, int], ...]
    num_shared: int
    num_alike: int


def version(connection: Connection, project_id: int) -> tuple[int, float, int]:
    """(answers, time of the newest, erased prompts) of a project: what changes with every summary.

    Labels come and go with their answers, of which each has one row of labels at most; answers
    are counted from an index alone.
    """
    # A statement for each kind: the last of an index is found at once, and counting reads it all.
    num_answers, newest = 0, 0.0
    for kind in ("demonstration", "ranking"):
        given, last = (
            select(value).where(
                assignments.c.project_id == project_id,
                assignments.c.kind == kind,
                assignments.c.state == "submitted",
            )
            for value in (func.count(), func.max(assignments.c.ended_at))
        )
        num_answers += connection.execute(given).scalar_one()
        newest = max(newest, connection.execute(last).scalar_one() or 0.0)
    removed = (prompts.c.project_id == project_id) & (prompts.c.state == "removed")
    num_removed = connection.execute(select(func.count()).where(removed)).scalar_one()
    return num_answers, newest, num_removed


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
    num_prompts, num_shared, num_alike = _num_prompts(connection, mine)
    names = [flag for flag in PROMPT_FLAGS if any((flag, yes) in flags for yes in (True, False))]
    names += sorted({flag for flag, _ in flags} - set(names))
    return PromptSummary(
        num_labels=num_labels,
        num_prompts=num_prompts,
        use_cases=dict(use_cases.most_common()),
        flags=tuple((name, flags[name, True], flags[name, False]) for name in names),
        num_shared=num_shared,
        num_alike=num_alike,
    )


def _num_prompts(connection: Connection, mine: ColumnElement[bool]) -> tuple[int, int, int]:
    """(prompts with labels, with use cases of several labelers, of these with one and the same)."""
    named = case((prompt_labels.c.use_case.is_not(None), prompt_labels.c.submission_id))
    # One person may rank the outputs of a prompt and write a demonstration for it too.
    newest = (
        select(prompt_labels.c.prompt_id, func.max(named).label("submission_id"))
        .join(prompts, prompts.c.id == prompt_labels.c.prompt_id)
        .join(submissions, submissions.c.id == prompt_labels.c.submission_id)
        .join(assignments, assignments.c.id == submissions.c.assignment_id)
        .where(mine)
        .group_by(prompt_labels.c.prompt_id, assignments.c.labeler_id)
        .subquery()
    )
    by_prompt = (
        select(
            func.count(prompt_labels.c.use_case).label("n"),
            func.min(prompt_labels.c.use_case).label("first"),
            func.max(prompt_labels.c.use_case).label("last"),
        )
        .select_from(newest)
        .outerjoin(prompt_labels, prompt_labels.c.submission_id == newest.c.submission_id)
        .group_by(newest.c.prompt_id)
        .subquery()
    )
    several = by_prompt.c.n > 1
    alike = several & (by_prompt.c.first == by_prompt.c.last)
    sums = (func.coalesce(func.sum(case((one, 1), else_=0)), 0) for one in (several, alike))
    counts = connection.execute(select(func.count(), *sums).select_from(by_prompt)).one()
    num_prompts, num_shared, num_alike = map(int, counts)
    return num_prompts, num_shared, num_alike
