"""One assignment: what its labeler sees of it, its lease, its slot, and the locks that guard both.

Whoever changes an assignment holds the row of its task, and whoever begins or takes up one holds
the row of the labeler's membership first. A slot is taken by lowering a count that a CHECK keeps
from going below zero, so that a mistake here is an error and never work done twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from statistics import median
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, Table, func, insert, select, update

from heedful.records import Cohort, PromptKind
from heedful.store import audit, labels
from heedful.store.answers import LabelSchema, TaskKind
from heedful.store.pools import lock_task
from heedful.store.problems import NotFound
from heedful.store.projects import Project, schema_of
from heedful.store.tables import (
    assignments,
    completions,
    drafts,
    guidelines,
    label_schemas,
    memberships,
    prompts,
    task_completions,
    tasks,
)

State = Literal["leased", "submitted", "skipped", "expired"]
# A lease is three times the usual working time, within these bounds; the usual is told by the last
# NUM_RECENT submissions of the project.
LEASE_S, MIN_LEASE_S, MAX_LEASE_S = 1800.0, 300.0, 8 * 3600.0
NUM_RECENT = 50


@dataclass(frozen=True, slots=True)
class Work:
    """What a labeler sees of an assignment, and all that a labeler's page may know of it.

    No model, completion id, source user, pool or other answer is in it. ``outputs`` stand in this
    labeler's own order; answers name them by their place.
    """

    id: str
    project_id: int
    kind: TaskKind
    state: State
    prompt: str | None
    brief: str
    prompt_kind: PromptKind | None
    outputs: tuple[str, ...]
    lease_until: float
    guideline: int
    schema: LabelSchema
    draft: Any
    draft_revision: int
    draft_saved_at: float | None
    active_s: float | None


def view(connection: Connection, assignment_id: str, labeler_id: int) -> Work:
    """What the labeler sees of one of their assignments; NotFound for anybody else's."""
    row = own_row(connection, assignment_id, labeler_id)
    task = connection.execute(
        select(tasks.c.brief, tasks.c.prompt_kind, prompts.c.text)
        .outerjoin(prompts, prompts.c.id == tasks.c.prompt_id)
        .where(tasks.c.id == row.task_id)
    ).one()
    draft = connection.execute(select(drafts).where(drafts.c.assignment_id == row.id)).one()
    texts = {
        r.id: r.text
        for r in connection.execute(
            select(completions.c.id, completions.c.text)
            .join(task_completions, task_completions.c.completion_id == completions.c.id)
            .where(task_completions.c.task_id == row.task_id)
        )
    }
    guideline = select(guidelines.c.number).where(guidelines.c.id == row.guideline_id)
    return Work(
        id=row.id,
        project_id=row.project_id,
        kind=row.kind,
        state=row.state,
        prompt=task.text,
        brief=task.brief,
        prompt_kind=task.prompt_kind,
        outputs=tuple(texts[number] for number in labels.display_order(row.id, list(texts))),
        lease_until=row.lease_until,
        guideline=connection.execute(guideline).scalar_one(),
        schema=schema_asked(connection, row.label_schema_id),
        draft=draft.payload,
        draft_revision=draft.revision,
        draft_saved_at=draft.saved_at,
        active_s=draft.active_s,
    )


def begin(
    connection: Connection,
    project: Project,
    task: int,
    labeler_id: int,
    kind: TaskKind,
    cohort: Cohort,
    *,
    now: float,
) -> str:
    """The id of the new assignment of a task, with its slot taken. The caller holds the task."""
    assignment = _opaque_id(project.seed, task, labeler_id)
    take_slot(connection, task, cohort)
    connection.execute(
        insert(assignments).values(
            id=assignment,
            task_id=task,
            project_id=project.id,
            labeler_id=labeler_id,
            kind=kind,
            cohort=cohort,
            state="leased",
            is_extra=False,
            claimed_at=now,
            lease_until=now + lease_s(connection, project, kind),
            skip_reason="",
            guideline_id=_newest(connection, guidelines, project.id),
            label_schema_id=_newest(connection, label_schemas, project.id),
        )
    )
    connection.execute(insert(drafts).values(assignment_id=assignment, revision=0))
    audit.record(connection, "claim", f"assignment/{assignment}", actor=labeler_id, now=now)
    return assignment


def own_row(connection: Connection, assignment_id: str, labeler_id: int) -> Row[Any]:
    """One of the labeler's assignments; NotFound for anybody else's, as if there were none."""
    row = connection.execute(
        select(assignments).where(
            assignments.c.id == assignment_id, assignments.c.labeler_id == labeler_id
        )
    ).first()
    if row is None:
        raise NotFound("there is no such task of yours")
    return row


def locked_row(connection: Connection, assignment_id: str, labeler_id: int) -> Row[Any]:
    """The assignment as it is while this transaction holds its task."""
    lock_task(connection, own_row(connection, assignment_id, labeler_id).task_id)
    return own_row(connection, assignment_id, labeler_id)


def lock_member(connection: Connection, project_id: int, labeler_id: int) -> Row[Any]:
    """The membership, locked: what one labeler asks for in two tabs comes one by one."""
    row = connection.execute(
        select(memberships)
        .where(memberships.c.project_id == project_id, memberships.c.user_id == labeler_id)
        .with_for_update()
    ).first()
    if row is None:
        raise NotFound("you are not in this project: ask who invited you")
    return row


def rows_of(project_id: int, labeler_id: int, kind: str) -> Select[Any]:
    """The query of a labeler's assignments of one kind."""
    return select(assignments).where(
        assignments.c.labeler_id == labeler_id,
        assignments.c.project_id == project_id,
        assignments.c.kind == kind,
    )


def leased_row(
    connection: Connection, project_id: int, labeler_id: int, kind: str
) -> Row[Any] | None:
    query = rows_of(project_id, labeler_id, kind).where(assignments.c.state == "leased")
    return connection.execute(query).first()


def reopen(connection: Connection, row: Row[Any], project: Project, *, now: float) -> bool:
    """Whether an expired assignment is leased again: its task has a slot, and nothing else is.

    A prompt in quarantine is leased to nobody. The caller holds membership and task.
    """
    state = connection.execute(select(tasks.c.state).where(tasks.c.id == row.task_id)).scalar_one()
    if state != "open":
        return False
    if row.state != "expired" or not has_slot(connection, row.task_id, row.cohort):
        return False
    if leased_row(connection, row.project_id, row.labeler_id, row.kind) is not None:
        return False
    take_slot(connection, row.task_id, row.cohort)
    change(connection, row.id, state="leased")
    renew(connection, row, project, now=now)
    audit.record(connection, "resume", f"assignment/{row.id}", actor=row.labeler_id, now=now)
    return True


def renew(connection: Connection, row: Row[Any], project: Project, *, now: float) -> None:
    """Makes a lease last for its full time from now on."""
    change(connection, row.id, lease_until=now + lease_s(connection, project, row.kind))


def change(connection: Connection, assignment_id: str, **values: Any) -> None:
    """Sets columns of an assignment. The caller holds the task."""
    connection.execute(update(assignments).where(assignments.c.id == assignment_id).values(values))


def has_slot(connection: Connection, task: int, cohort: Cohort) -> bool:
    """Whether a task has an open slot for a cohort. The caller holds the task."""
    row = connection.execute(
        select(tasks.c.open_slots, tasks.c.heldout_open).where(tasks.c.id == task)
    ).one()
    return (row.open_slots if cohort == "train" else row.heldout_open) > 0


def take_slot(connection: Connection, task: int, cohort: Cohort) -> None:
    """Takes one of a task's open slots; an error where none is left. The caller holds the task."""
    column = tasks.c.open_slots if cohort == "train" else tasks.c.heldout_open
    connection.execute(update(tasks).where(tasks.c.id == task).values({column: column - 1}))


def lease_s(connection: Connection, project: Project, kind: str) -> float:
    """How long a lease is: as set, else from the working time of the latest submissions."""
    if project.settings.lease_s is not None:
        return project.settings.lease_s
    times = connection.execute(
        select(assignments.c.active_s)
        .where(
            assignments.c.project_id == project.id,
            assignments.c.kind == kind,
            assignments.c.state == "submitted",
            assignments.c.active_s.is_not(None),
        )
        .order_by(assignments.c.ended_at.desc())
        .limit(NUM_RECENT)
    ).scalars()
    usual = list(times)
    if not usual:
        return LEASE_S
    return min(max(3.0 * median(usual), MIN_LEASE_S), MAX_LEASE_S)


def _newest(connection: Connection, table: Table, project_id: int) -> int:
    query = select(func.max(table.c.id)).where(table.c.project_id == project_id)
    return int(connection.execute(query).scalar_one())


def schema_asked(connection: Connection, schema_id: int) -> LabelSchema:
    """The questions that an assignment asks."""
    query = select(label_schemas).where(label_schemas.c.id == schema_id)
    row = connection.execute(query).one()
    return schema_of(row.fields, row.number)


def _opaque_id(seed: str, task: int, labeler_id: int) -> str:
    return blake2b(f"{seed}/assignment/{task}/{labeler_id}".encode(), digest_size=12).hexdigest()
