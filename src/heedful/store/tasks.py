"""A labeler's work: claim, heartbeat, draft, submit, skip, undo; leases that end.

An assignment is one labeler on one task, and goes

    leased ──submit──► submitted ──undo──► leased
    leased ──skip────► skipped ────undo──► leased
    leased ──its time is over──► expired ──claim or heartbeat, while a slot is open──► leased
                                 expired ──submit──► submitted (extra, if no slot is open any more)

Two things can never happen: more live and counted answers than a task's target, and one labeler
twice on a task. The first is a CHECK on a count that is lowered in the transaction that takes a
slot; the second is a UNIQUE key. Whoever changes an assignment holds the row of its task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, case, exists, func, or_, select, update

from heedful.records import Cohort
from heedful.store import audit, labels
from heedful.store.answers import KIND_OF, Answer, TaskKind, check, payload_hash, payload_of
from heedful.store.assignments import (
    State,
    Work,
    begin,
    change,
    has_slot,
    leased_row,
    lock_member,
    locked_row,
    own_row,
    renew,
    reopen,
    rows_of,
    schema_asked,
    take_slot,
    view,
)
from heedful.store.database import canonical_json, insert_row, storable
from heedful.store.pools import Pool, count_slots, lock_task
from heedful.store.problems import AnswerProblem, Conflict, DraftConflict, NotFound
from heedful.store.projects import Project, get, quarantine, share_of
from heedful.store.tables import assignments, drafts, submissions, tasks


@dataclass(frozen=True, slots=True)
class Lease:
    """Whether an assignment is still the labeler's, and until when."""

    state: State
    lease_until: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission; the same for every repetition of it."""

    submission_id: int
    is_extra: bool
    is_late: bool
    is_withdrawn: bool
    is_replay: bool


def claim(
    connection: Connection, project_id: int, labeler_id: int, kind: TaskKind, *, now: float
) -> Work | None:
    """The labeler's work of this kind: what is under way, else the next task, else None.

    A second tab gets what the first one has. What has expired comes back, with its draft, while its
    slot is open; only then is a new task taken.
    """
    project = get(connection, project_id)
    member = lock_member(connection, project_id, labeler_id)
    if member.state != "active":
        raise NotFound("you are not at work in this project: ask who invited you")
    own = leased_row(connection, project_id, labeler_id, kind)
    if own is not None:
        # Under the task's lock a lease may turn out to have ended: then it is taken up again below.
        own = locked_row(connection, own.id, labeler_id)
        if own.state == "leased":
            renew(connection, own, project, now=now)
            return view(connection, own.id, labeler_id)
    resumed = _resume_expired(connection, project, labeler_id, kind, now=now)
    if resumed is not None:
        return view(connection, resumed, labeler_id)
    if project.closed_at is not None:
        return None
    task = _next_task(connection, project, labeler_id, kind, member.cohort)
    if task is None and expire(connection, project_id=project_id, now=now):
        task = _next_task(connection, project, labeler_id, kind, member.cohort)
    if task is None:
        return None
    assignment = begin(connection, project, task, labeler_id, kind, member.cohort, now=now)
    return view(connection, assignment, labeler_id)


def heartbeat(
    connection: Connection,
    assignment_id: str,
    labeler_id: int,
    *,
    active_s: float | None = None,
    now: float,
) -> Lease:
    """The lease, made longer; one that has ended is taken up again while its slot is open.

    A page calls it about once a minute while it is visible and somebody is typing or clicking, and
    says how many seconds of work it has counted.
    """
    row = own_row(connection, assignment_id, labeler_id)
    project = get(connection, row.project_id)
    if active_s is not None and row.state in ("leased", "expired"):
        # Before the task is locked: a submission saves its draft first as well.
        mine = drafts.c.assignment_id == assignment_id
        connection.execute(update(drafts).where(mine).values(active_s=_longest(active_s)))
    if row.state == "expired":
        lock_member(connection, row.project_id, labeler_id)
        row = locked_row(connection, assignment_id, labeler_id)
        reopen(connection, row, project, now=now)
    else:
        row = locked_row(connection, assignment_id, labeler_id)
        if row.state == "leased":
            renew(connection, row, project, now=now)
    row = own_row(connection, assignment_id, labeler_id)
    return Lease(row.state, row.lease_until)


def save_draft(
    connection: Connection,
    assignment_id: str,
    labeler_id: int,
    payload: Any,
    *,
    revision: int,
    active_s: float | None = None,
    now: float,
) -> int:
    """The draft's new revision. ``revision`` is the one that the page has last seen.

    The seconds of work are kept with it, for a page that is opened again to count on from.
    DraftConflict where another tab has saved since; saving the same content again is no conflict.
    A draft can be saved after the lease has ended: nothing that was typed is lost.
    """
    row = own_row(connection, assignment_id, labeler_id)
    if row.state not in ("leased", "expired"):
        raise Conflict(f"this task was {row.state} already; undo that to change it")
    try:
        canonical_json(payload)
    except ValueError as error:
        raise AnswerProblem("draft", f"cannot be kept: {error}") from error
    mine = drafts.c.assignment_id == assignment_id
    done = connection.execute(
        update(drafts)
        .where(mine, drafts.c.revision == revision)
        .values(payload=payload, revision=revision + 1, saved_at=now, active_s=_longest(active_s))
    )
    if done.rowcount == 0:
        stored = connection.execute(select(drafts).where(mine)).one()
        if (stored.revision, stored.payload) != (revision + 1, payload):
            raise DraftConflict(stored.payload, stored.revision)
    return revision + 1


def submit(
    connection: Connection,
    assignment_id: str,
    labeler_id: int,
    answer: Answer,
    *,
    key: str,
    active_s: float | None = None,
    now: float,
) -> Receipt:
    """Keeps an answer. ``key`` is made by the page: the same key again gives the same receipt.

    After the lease has ended the answer still counts if a slot is open, and else is kept as extra.
    """
    row = locked_row(connection, assignment_id, labeler_id)
    payload = payload_of(answer)
    digest = payload_hash(payload)
    before = connection.execute(select(submissions).where(submissions.c.key == key)).first()
    if before is not None:
        if (before.assignment_id, before.payload_sha256) != (assignment_id, digest):
            raise Conflict("this form was submitted before with another answer: load it again")
        withdrawn = before.withdrawn_at is not None
        return Receipt(before.id, row.is_extra, before.is_late, withdrawn, True)
    if row.state not in ("leased", "expired"):
        raise Conflict(f"this task was {row.state} already, perhaps in another tab")
    if KIND_OF[type(answer)] != row.kind:
        raise Conflict(f"this is a {row.kind} task: another kind of answer was sent")
    _check(connection, row, answer)
    is_extra = row.state == "expired" and not has_slot(connection, row.task_id, row.cohort)
    if row.state == "expired" and not is_extra:
        take_slot(connection, row.task_id, row.cohort)
    is_late = now > row.lease_until
    submission = insert_row(
        connection,
        submissions,
        assignment_id=assignment_id,
        key=key,
        payload=payload,
        payload_sha256=digest,
        is_late=is_late,
        created_at=now,
    )
    change(
        connection,
        row.id,
        state="submitted",
        is_extra=is_extra,
        ended_at=now,
        active_s=_plausible(active_s, now - row.claimed_at),
    )
    labels.keep(connection, submission, row, answer, now=now)
    audit.record(
        connection,
        "submit",
        f"assignment/{assignment_id}",
        actor=labeler_id,
        now=now,
        submission=submission,
        sha256=digest,
        is_extra=is_extra,
    )
    return Receipt(submission, is_extra, is_late, False, False)


def skip(
    connection: Connection, assignment_id: str, labeler_id: int, *, reason: str = "", now: float
) -> None:
    """Gives a task back for others; the draft stays and ``undo`` brings both back."""
    row = locked_row(connection, assignment_id, labeler_id)
    if row.state == "skipped":
        return
    if row.state == "submitted":
        raise Conflict("this task was submitted already, perhaps in another tab")
    change(connection, row.id, state="skipped", ended_at=now, skip_reason=storable(reason))
    count_slots(connection, tasks.c.id == row.task_id)
    audit.record(connection, "skip", f"assignment/{assignment_id}", actor=labeler_id, now=now)


def flag_prompt(
    connection: Connection, assignment_id: str, labeler_id: int, *, reason: str, now: float
) -> None:
    """Skips a task and takes its prompt out of circulation until a reviewer has decided."""
    skip(connection, assignment_id, labeler_id, reason=reason, now=now)
    row = own_row(connection, assignment_id, labeler_id)
    query = select(tasks.c.prompt_id).where(tasks.c.id == row.task_id)
    prompt = connection.execute(query).scalar_one()
    if prompt is not None:
        quarantine(connection, prompt, reason or "flagged", actor=labeler_id, now=now)


def undo(connection: Connection, assignment_id: str, labeler_id: int, *, now: float) -> Work:
    """The work as it was before a submission or a skip; the answer is withdrawn, the draft is back.

    What the labeler has begun since of the same kind is put aside with its draft and comes back
    with the next claim.
    """
    row = own_row(connection, assignment_id, labeler_id)
    project = get(connection, row.project_id)
    lock_member(connection, row.project_id, labeler_id)
    other = leased_row(connection, row.project_id, labeler_id, row.kind)
    others = [other] if other is not None and other.id != row.id else []
    for task in sorted({row.task_id, *(o.task_id for o in others)}):
        lock_task(connection, task)
    row = own_row(connection, assignment_id, labeler_id)
    if row.state in ("leased", "expired"):
        return view(connection, assignment_id, labeler_id)
    settings = project.settings
    limit_s = settings.undo_s if row.state == "submitted" else settings.restore_s
    if now > row.ended_at + limit_s:
        raise Conflict(f"it is too late to undo this: {limit_s:.0f} seconds are allowed")
    for aside in others:
        change(connection, aside.id, state="expired")
        count_slots(connection, tasks.c.id == aside.task_id)
    if row.state == "submitted":
        labels.withdraw(connection, assignment_id, now=now)
    change(connection, row.id, state="expired", is_extra=False, ended_at=None, skip_reason="")
    count_slots(connection, tasks.c.id == row.task_id)
    audit.record(connection, "undo", f"assignment/{assignment_id}", actor=labeler_id, now=now)
    reopen(connection, own_row(connection, assignment_id, labeler_id), project, now=now)
    return view(connection, assignment_id, labeler_id)


def expire(connection: Connection, *, project_id: int | None = None, now: float) -> int:
    """How many leases were over; their slots are free again. Call it every quarter of a minute."""
    query = (
        select(assignments.c.id, assignments.c.task_id)
        .where(assignments.c.state == "leased", assignments.c.lease_until <= now)
        .order_by(assignments.c.task_id)
    )
    if project_id is not None:
        query = query.where(assignments.c.project_id == project_id)
    num_expired = 0
    for due in connection.execute(query).all():
        # A task that is being worked on at this moment is left for the next time.
        held = select(tasks.c.id).where(tasks.c.id == due.task_id)
        if connection.execute(held.with_for_update(skip_locked=True)).first() is None:
            continue
        done = connection.execute(
            update(assignments)
            .where(
                assignments.c.id == due.id,
                assignments.c.state == "leased",
                assignments.c.lease_until <= now,
            )
            .values(state="expired")
        )
        if done.rowcount:
            num_expired += 1
            count_slots(connection, tasks.c.id == due.task_id)
            audit.record(connection, "expire", f"assignment/{due.id}", actor=None, now=now)
    return num_expired


def _resume_expired(
    connection: Connection, project: Project, labeler_id: int, kind: str, *, now: float
) -> str | None:
    """The labeler's oldest expired assignment that still has a slot, taken up again, or None."""
    slots = case((assignments.c.cohort == "train", tasks.c.open_slots), else_=tasks.c.heldout_open)
    query = (
        rows_of(project.id, labeler_id, kind)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(assignments.c.state == "expired", tasks.c.state == "open", slots > 0)
        .order_by(assignments.c.claimed_at, assignments.c.id)
    )
    for row in connection.execute(query).all():
        if reopen(connection, locked_row(connection, row.id, labeler_id), project, now=now):
            return str(row.id)
    return None


def _next_task(
    connection: Connection, project: Project, labeler_id: int, kind: TaskKind, cohort: Cohort
) -> int | None:
    """The task to do next, its row locked: now and then gold or a constant pair, else work."""
    num_before = connection.execute(
        select(func.count())
        .select_from(assignments)
        .where(assignments.c.labeler_id == labeler_id, assignments.c.project_id == project.id)
    ).scalar_one()
    drawn = share_of(project.seed, "pool", labeler_id, num_before)
    settings = project.settings
    pools: tuple[Pool, ...] = ("work",)
    if drawn < settings.gold_fraction:
        pools = ("gold", "work")
    elif drawn < settings.gold_fraction + settings.drift_fraction:
        pools = ("drift", "work")
    for pool in pools:
        query = _eligible(project.id, labeler_id, kind, cohort, pool)
        # With SKIP LOCKED nothing may be found because others hold the last tasks at this moment:
        # before a labeler hears that there is no work, we wait for them and look again.
        for skip_locked in (True, False):
            found = connection.execute(
                query.with_for_update(of=tasks, skip_locked=skip_locked)
            ).scalar()
            if found is not None:
                return int(found)
    return None


def _eligible(
    project_id: int, labeler_id: int, kind: TaskKind, cohort: Cohort, pool: Pool
) -> Select[Any]:
    slots = tasks.c.open_slots if cohort == "train" else tasks.c.heldout_open
    begun = exists().where(
        assignments.c.task_id == tasks.c.id, assignments.c.labeler_id == labeler_id
    )
    return (
        select(tasks.c.id)
        .where(
            tasks.c.project_id == project_id,
            tasks.c.kind == kind,
            tasks.c.pool == pool,
            tasks.c.state == "open",
            slots > 0,
            or_(tasks.c.author_id.is_(None), tasks.c.author_id != labeler_id),
            ~begun,
        )
        .order_by(tasks.c.priority.desc(), tasks.c.turn)
        .limit(1)
    )


def _check(connection: Connection, row: Row[Any], answer: Answer) -> None:
    """Raises AnswerProblem where the answer does not fit the questions of its assignment."""
    outputs = labels.completions_of(connection, row.task_id)
    query = select(tasks.c.prompt_kind).where(tasks.c.id == row.task_id)
    prompt_kind = connection.execute(query).scalar_one()
    check(answer, schema_asked(connection, row.label_schema_id), len(outputs), prompt_kind)


def _longest(active_s: float | None) -> Any:
    """The working time of a draft: of several tabs the most that one has counted."""
    before = drafts.c.active_s
    if active_s is None:
        return before
    return case((or_(before.is_(None), before < active_s), active_s), else_=before)


def _plausible(active_s: float | None, passed_s: float) -> float | None:
    """The working time as the page has counted it, where that can be true."""
    if active_s is None or not 0.0 <= active_s < float("inf"):
        return None
    return min(active_s, max(passed_s, 0.0))
