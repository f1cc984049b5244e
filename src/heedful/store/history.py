"""What was done, in figures and lists: a labeler's own, everybody's, day by day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Connection, Integer, and_, case, cast, delete, func, insert, select

from heedful.records import Cohort
from heedful.store import audit
from heedful.store.answers import TaskKind
from heedful.store.assignments import State
from heedful.store.problems import NotFound
from heedful.store.tables import adjudications, assignments, gold, prompts, rankings, tasks

DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Done:
    """A line of a labeler's own history; ``prompt`` is the brief where one was to be written."""

    assignment_id: str
    kind: TaskKind
    state: State
    prompt: str
    claimed_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """A labeler's work in a project."""

    labeler_id: int
    cohort: Cohort
    num_submitted: int
    num_skipped: int
    num_expired: int
    num_extra: int
    active_s: float
    last_at: float | None


@dataclass(frozen=True, slots=True)
class KindTotals:
    """A labeler's work of one kind; ``active_s`` is the working time of ``num_timed`` answers."""

    kind: TaskKind
    num_submitted: int
    num_skipped: int
    num_timed: int
    active_s: float


@dataclass(frozen=True, slots=True)
class SharedTask:
    """A ranking task that several labelers have answered."""

    task_id: int
    prompt_id: int
    prompt: str
    num_rankings: int
    is_adjudicated: bool


def own(
    connection: Connection,
    project_id: int,
    labeler_id: int,
    *,
    limit: int = 50,
    before: float | None = None,
) -> list[Done]:
    """A labeler's assignments, newest first; those claimed before a time, for the next page."""
    query = (
        select(assignments, prompts.c.text, tasks.c.brief)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .outerjoin(prompts, prompts.c.id == tasks.c.prompt_id)
        .where(assignments.c.labeler_id == labeler_id, assignments.c.project_id == project_id)
        .order_by(assignments.c.claimed_at.desc(), assignments.c.id)
        .limit(limit)
    )
    if before is not None:
        query = query.where(assignments.c.claimed_at < before)
    return [
        Done(row.id, row.kind, row.state, row.text or row.brief, row.claimed_at, row.ended_at)
        for row in connection.execute(query)
    ]


def totals(
    connection: Connection,
    project_id: int,
    *,
    labeler_id: int | None = None,
    since: float | None = None,
) -> list[Totals]:
    """The work of every labeler of a project, or of one, in order of number; in all or since then.

    ``cohort`` is the one of the latest answers.
    """

    def number_of(condition: Any) -> Any:
        return func.sum(case((condition, 1), else_=0))

    state = assignments.c.state
    query = (
        select(
            assignments.c.labeler_id,
            func.max(assignments.c.cohort).label("cohort"),
            number_of(state == "submitted").label("num_submitted"),
            number_of(state == "skipped").label("num_skipped"),
            number_of(state == "expired").label("num_expired"),
            number_of(assignments.c.is_extra).label("num_extra"),
            func.coalesce(func.sum(assignments.c.active_s), 0.0).label("active_s"),
            func.max(assignments.c.ended_at).label("last_at"),
        )
        .where(assignments.c.project_id == project_id)
        .group_by(assignments.c.labeler_id)
        .order_by(assignments.c.labeler_id)
    )
    if labeler_id is not None:
        query = query.where(assignments.c.labeler_id == labeler_id)
    if since is not None:
        query = query.where(assignments.c.claimed_at >= since)
    return [Totals(**row._mapping) for row in connection.execute(query)]


def by_kind(connection: Connection, project_id: int, labeler_id: int) -> list[KindTotals]:
    """A labeler's own work in a project, kind by kind."""
    is_done = assignments.c.state == "submitted"
    is_timed = and_(is_done, assignments.c.active_s.is_not(None))
    query = (
        select(
            assignments.c.kind,
            func.sum(case((is_done, 1), else_=0)).label("num_submitted"),
            func.sum(case((assignments.c.state == "skipped", 1), else_=0)).label("num_skipped"),
            func.sum(case((is_timed, 1), else_=0)).label("num_timed"),
            func.sum(case((is_timed, assignments.c.active_s), else_=0.0)).label("active_s"),
        )
        .where(assignments.c.labeler_id == labeler_id, assignments.c.project_id == project_id)
        .group_by(assignments.c.kind)
        .order_by(assignments.c.kind)
    )
    return [
        KindTotals(row.kind, row.num_submitted, row.num_skipped, row.num_timed, float(row.active_s))
        for row in connection.execute(query)
    ]


def per_day(
    connection: Connection, project_id: int, *, since: float, labeler_id: int | None = None
) -> dict[int, int]:
    """{day: submissions}, days counted since 1970 (UTC)."""
    day = cast(func.floor(assignments.c.ended_at / DAY_S), Integer).label("day")
    query = (
        select(day, func.count().label("n"))
        .where(
            assignments.c.project_id == project_id,
            assignments.c.state == "submitted",
            assignments.c.ended_at >= since,
        )
        .group_by(day)
        .order_by(day)
    )
    if labeler_id is not None:
        query = query.where(assignments.c.labeler_id == labeler_id)
    else:  # all kinds there are: named, so that an index leads to what ended since then
        query = query.where(assignments.c.kind.in_(get_args(TaskKind)))
    return {row.day: row.n for row in connection.execute(query)}


def shared_tasks(
    connection: Connection, project_id: int, *, after: int = 0, limit: int = 50
) -> list[SharedTask]:
    """Ranking tasks with answers of several labelers, by number, from after one on."""
    count = func.count().label("n")
    several = (
        select(rankings.c.task_id, count)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(tasks.c.project_id == project_id, rankings.c.task_id > after)
        .group_by(rankings.c.task_id)
        .having(count > 1)
        .order_by(rankings.c.task_id)
        .limit(limit)
        .subquery()
    )
    query = (
        select(several, tasks.c.prompt_id, prompts.c.text, adjudications.c.at)
        .join(tasks, tasks.c.id == several.c.task_id)
        .join(prompts, prompts.c.id == tasks.c.prompt_id)
        .outerjoin(adjudications, adjudications.c.task_id == tasks.c.id)
        .order_by(several.c.task_id)
    )
    return [
        SharedTask(row.task_id, row.prompt_id, row.text, row.n, row.at is not None)
        for row in connection.execute(query)
    ]


def adjudicate(
    connection: Connection,
    task: int,
    answer: dict[str, Any],
    *,
    note: str = "",
    actor: int,
    now: float,
) -> None:
    """Keeps a researcher's ranking of a disputed task ({"ranks": [...]} in the task's order)."""
    if connection.execute(select(tasks.c.id).where(tasks.c.id == task)).first() is None:
        raise NotFound(f"there is no task {task}")
    connection.execute(delete(adjudications).where(adjudications.c.task_id == task))
    values = {"task_id": task, "answer": answer, "note": note, "set_by": actor, "at": now}
    connection.execute(insert(adjudications).values(values))
    audit.record(connection, "adjudicate", f"task/{task}", actor=actor, now=now)


def reference_answers(
    connection: Connection, project_id: int, *, adjudicated: bool = False
) -> dict[int, dict[str, Any]]:
    """{task: answer} of the gold tasks, or of those that were adjudicated."""
    table = adjudications if adjudicated else gold
    query = (
        select(table.c.task_id, table.c.answer)
        .join(tasks, tasks.c.id == table.c.task_id)
        .where(tasks.c.project_id == project_id)
        .order_by(table.c.task_id)
    )
    return {row.task_id: row.answer for row in connection.execute(query)}
