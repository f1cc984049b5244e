"""Questions of labelers about a task, and what researchers answer: a thread for each assignment.

A thread is between its labeler and the researchers. What others should know too belongs into the
guidelines, whose versions everybody reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select, update

from heedful.store import audit
from heedful.store.answers import MAX_NOTE_CHARS, TaskKind, check_text
from heedful.store.assignments import own_row
from heedful.store.database import insert_row
from heedful.store.problems import NotFound
from heedful.store.tables import assignments, messages, prompts, tasks


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``is_answer`` says that a researcher wrote it, never which."""

    is_answer: bool
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread in a list; ``num_new`` counts what the reader of the list has not opened yet."""

    assignment_id: str
    task_id: int
    kind: TaskKind
    prompt: str
    labeler_id: int
    num_messages: int
    num_new: int
    last_at: float


def ask(
    connection: Connection, assignment_id: str, labeler_id: int, text: str, *, now: float
) -> None:
    """Keeps a labeler's question about their own task; the answers so far count as seen."""
    own_row(connection, assignment_id, labeler_id)
    _add(connection, assignment_id, labeler_id, text, is_answer=False, now=now)


def answer(
    connection: Connection,
    project_id: int,
    assignment_id: str,
    text: str,
    *,
    actor: int,
    now: float,
) -> None:
    """Keeps a researcher's answer in a thread; the questions so far count as seen."""
    labeler_of(connection, project_id, assignment_id)
    _add(connection, assignment_id, actor, text, is_answer=True, now=now)


def _add(
    connection: Connection,
    assignment_id: str,
    author_id: int,
    text: str,
    *,
    is_answer: bool,
    now: float,
) -> None:
    _see(connection, assignment_id, is_answer=not is_answer, now=now)
    number = insert_row(
        connection,
        messages,
        assignment_id=assignment_id,
        author_id=author_id,
        is_answer=is_answer,
        text=check_text(text, "message", limit=MAX_NOTE_CHARS),
        at=now,
    )
    audit.record(connection, "message", f"message/{number}", actor=author_id, now=now)


def own_thread(connection: Connection, assignment_id: str, labeler_id: int) -> list[Message]:
    """The thread of one of the labeler's own assignments, oldest first; NotFound for others'."""
    own_row(connection, assignment_id, labeler_id)
    return _thread(connection, assignment_id)


def thread(connection: Connection, project_id: int, assignment_id: str) -> list[Message]:
    """Any thread of a project, oldest first, for researchers."""
    labeler_of(connection, project_id, assignment_id)
    return _thread(connection, assignment_id)


def labeler_of(connection: Connection, project_id: int, assignment_id: str) -> int:
    """Whose assignment it is; NotFound where the project has none such."""
    query = select(assignments.c.labeler_id).where(
        assignments.c.id == assignment_id, assignments.c.project_id == project_id
    )
    labeler = connection.execute(query).scalar()
    if labeler is None:
        raise NotFound("there is no such task in this project")
    return labeler


def see_own(connection: Connection, assignment_id: str, labeler_id: int, *, now: float) -> None:
    """Notes that a labeler has opened a thread of their own."""
    own_row(connection, assignment_id, labeler_id)
    _see(connection, assignment_id, is_answer=True, now=now)


def all_threads(connection: Connection, project_id: int, *, limit: int = 200) -> list[Thread]:
    """The threads of a project for researchers: first what waits for an answer, then the newest.

    A thread waits while the labeler's last word has no answer, whoever has looked at it.
    """
    is_new = messages.c.seen_at.is_(None) & messages.c.is_answer.is_(False)
    return _threads(connection, project_id, None, is_new, limit)


def own_threads(
    connection: Connection, project_id: int, labeler_id: int, *, limit: int = 200
) -> list[Thread]:
    """A labeler's threads in a project: first those with answers that are new."""
    is_new = messages.c.seen_at.is_(None) & messages.c.is_answer
    return _threads(connection, project_id, labeler_id, is_new, limit)


def _threads(
    connection: Connection, project_id: int, labeler_id: int | None, is_new: Any, limit: int
) -> list[Thread]:
    counts = (
        select(
            messages.c.assignment_id,
            func.count().label("num_messages"),
            func.sum(case((is_new, 1), else_=0)).label("num_new"),
            func.max(messages.c.at).label("last_at"),
        )
        .join(assignments, assignments.c.id == messages.c.assignment_id)
        .where(assignments.c.project_id == project_id)
        .group_by(messages.c.assignment_id)
    )
    if labeler_id is not None:
        counts = counts.where(assignments.c.labeler_id == labeler_id)
    found = counts.subquery()
    query = (
        select(
            found,
            assignments.c.task_id,
            assignments.c.kind,
            assignments.c.labeler_id,
            prompts.c.text,
            tasks.c.brief,
        )
        .join(assignments, assignments.c.id == found.c.assignment_id)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .outerjoin(prompts, prompts.c.id == tasks.c.prompt_id)
        .order_by((found.c.num_new > 0).desc(), found.c.last_at.desc(), found.c.assignment_id)
        .limit(limit)
    )
    return [
        Thread(
            assignment_id=row.assignment_id,
            task_id=row.task_id,
            kind=row.kind,
            prompt=row.text or row.brief,
            labeler_id=row.labeler_id,
            num_messages=row.num_messages,
            num_new=int(row.num_new),
            last_at=row.last_at,
        )
        for row in connection.execute(query)
    ]


def _thread(connection: Connection, assignment_id: str) -> list[Message]:
    query = select(messages.c.is_answer, messages.c.text, messages.c.at).where(
        messages.c.assignment_id == assignment_id
    )
    return [Message(**row._mapping) for row in connection.execute(query.order_by(messages.c.id))]


def _see(connection: Connection, assignment_id: str, *, is_answer: bool, now: float) -> None:
    connection.execute(
        update(messages)
        .where(
            messages.c.assignment_id == assignment_id,
            messages.c.is_answer.is_(is_answer),
            messages.c.seen_at.is_(None),
        )
        .values(seen_at=now)
    )
