"""Ranking tasks beside each other and one by one, as researchers look at them: what labelers have
answered, where they disagree, what researchers have decided. No model is named: it would decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from heedful.records import Cohort, Rating
from heedful.store.pools import Pool
from heedful.store.problems import NotFound
from heedful.store.tables import (
    adjudications,
    assignments,
    completions,
    gold,
    guidelines,
    prompts,
    rankings,
    ratings,
    submissions,
    task_completions,
    tasks,
)

View = Literal["disputed", "decided", "gold", "all"]
VIEWS: tuple[View, ...] = ("disputed", "decided", "gold", "all")
AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A ranking task in a list. Pairs are those of two labelers and two outputs.

    ``num_opposite`` of the ``num_strict`` that both have ordered are in opposite orders.
    """

    task_id: int
    prompt: str
    pool: Pool
    num_rankings: int
    num_opposite: int
    num_strict: int
    is_decided: bool


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """One labeler's answer to a task, in the task's own order of outputs."""

    labeler_id: int
    cohort: Cohort
    ranks: tuple[int, ...]
    ratings: tuple[Rating | None, ...]
    rating_notes: tuple[str, ...]
    notes: str
    guideline: int
    at: float


@dataclass(frozen=True, slots=True)
class RankingTask:
    """A ranking task with everything that people have said of it."""

    task_id: int
    prompt: str
    pool: Pool
    outputs: tuple[str, ...]
    answers: tuple[TaskAnswer, ...]
    decided: tuple[int, ...] | None  # the ranks that researchers agreed on
    decided_note: str
    gold: tuple[int, ...] | None  # the ranks that labelers are measured against


def task_lines(
    connection: Connection, project_id: int, view: View, *, after: int = 0, limit: int = 50
) -> list[TaskLine]:
    """The ranking tasks of a view by number, from after one on.

    ``disputed`` are those where two labelers have ordered a pair in opposite ways, and researchers
    have not decided yet.
    """
    found: list[TaskLine] = []
    while len(found) < limit:
        size = AT_ONCE if view == "disputed" else limit - len(found)
        part = _lines(connection, project_id, view, after, size)
        found += [line for line in part if view != "disputed" or line.num_opposite]
        if len(part) < size:
            break
        after = part[-1].task_id
    return found[:limit]


def _lines(
    connection: Connection, project_id: int, view: View, after: int, limit: int
) -> list[TaskLine]:
    count = select(func.count()).where(rankings.c.task_id == tasks.c.id).scalar_subquery()
    query = (
        select(tasks.c.id, tasks.c.pool, prompts.c.text, adjudications.c.at)
        .join(prompts, prompts.c.id == tasks.c.prompt_id)
        .join(adjudications, adjudications.c.task_id == tasks.c.id, isouter=view != "decided")
        .where(
            tasks.c.project_id == project_id,
            tasks.c.kind == "ranking",
            prompts.c.state != "removed",
            tasks.c.id > after,
        )
        .order_by(tasks.c.id)
        .limit(limit)
    )
    if view == "disputed":
        # Not "is work": nearly all tasks are, and an index of them would be sorted for each page.
        special = tasks.c.pool.in_(("gold", "drift"))
        query = query.where(adjudications.c.at.is_(None), ~special, count > 1)
    elif view == "gold":
        query = query.where(tasks.c.pool == "gold")
    rows = connection.execute(query).all()
    given: dict[int, list[list[int]]] = {row.id: [] for row in rows}
    own = select(rankings.c.task_id, rankings.c.ranks).where(rankings.c.task_id.in_(given))
    for row in connection.execute(own.order_by(rankings.c.submission_id)):
        given[row.task_id].append(row.ranks)
    return [
        TaskLine(
            row.id,
            row.text,
            row.pool,
            len(given[row.id]),
            *opposite_pairs(given[row.id]),
            row.at is not None,
        )
        for row in rows
    ]


def opposite_pairs(ranked: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(opposite, strict): of the pairs of outputs that two labelers both ordered, those in opposite
    orders; over all pairs of labelers."""
    num_opposite = num_strict = 0
    for one, ranks in enumerate(ranked):
        for others in ranked[one + 1 :]:
            for a in range(len(ranks)):
                for b in range(a + 1, len(ranks)):
                    product = (ranks[a] - ranks[b]) * (others[a] - others[b])
                    num_opposite += product < 0
                    num_strict += product != 0
    return num_opposite, num_strict


def ranking_task(connection: Connection, project_id: int, task: int) -> RankingTask:
    """One ranking task of a project."""
    row = connection.execute(
        select(
            tasks.c.id,
            tasks.c.pool,
            prompts.c.text,
            adjudications.c.answer.label("decided"),
            adjudications.c.note,
            gold.c.answer.label("gold"),
        )
        .join(prompts, prompts.c.id == tasks.c.prompt_id)
        .outerjoin(adjudications, adjudications.c.task_id == tasks.c.id)
        .outerjoin(gold, gold.c.task_id == tasks.c.id)
        .where(
            tasks.c.id == task,
            tasks.c.project_id == project_id,
            tasks.c.kind == "ranking",
            prompts.c.state != "removed",
        )
    ).first()
    if row is None:
        raise NotFound(f"there is no ranking task {task}")
    outputs = connection.execute(
        select(completions.c.id, completions.c.text)
        .join(task_completions, task_completions.c.completion_id == completions.c.id)
        .where(task_completions.c.task_id == task)
        .order_by(task_completions.c.position)
    ).all()
    return RankingTask(
        task_id=row.id,
        prompt=row.text,
        pool=row.pool,
        outputs=tuple(output.text for output in outputs),
        answers=tuple(_answers(connection, task, [output.id for output in outputs])),
        decided=None if row.decided is None else tuple(row.decided["ranks"]),
        decided_note=row.note or "",
        gold=None if row.gold is None else tuple(row.gold["ranks"]),
    )


def _answers(connection: Connection, task: int, outputs: list[int]) -> list[TaskAnswer]:
    mine = rankings.c.task_id == task
    rated: dict[tuple[int, int], Any] = {
        (row.submission_id, row.completion_id): row
        for row in connection.execute(
            select(ratings)
            .join(rankings, rankings.c.submission_id == ratings.c.submission_id)
            .where(mine)
        )
    }
    query = (
        select(
            rankings,
            assignments.c.cohort,
            submissions.c.created_at,
            guidelines.c.number.label("guideline"),
        )
        .join(submissions, submissions.c.id == rankings.c.submission_id)
        .join(assignments, assignments.c.id == submissions.c.assignment_id)
        .join(guidelines, guidelines.c.id == assignments.c.guideline_id)
        .where(mine)
        .order_by(rankings.c.submission_id)
    )
    found = []
    for row in connection.execute(query):
        own = [rated[row.submission_id, output] for output in outputs]
        found.append(
            TaskAnswer(
                labeler_id=row.labeler_id,
                cohort=row.cohort,
                ranks=tuple(row.ranks),
                ratings=tuple(
                    None if one.overall is None else Rating(one.overall, one.flags) for one in own
                ),
                rating_notes=tuple(one.notes for one in own),
                notes=row.notes,
                guideline=row.guideline,
                at=row.created_at,
            )
        )
    return found
