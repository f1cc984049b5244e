"""Which tasks there are and how many labelers each is for: made, changed and counted here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, case, exists, func, insert, or_, select, update

from heedful.records import PromptKind
from heedful.store import audit
from heedful.store.answers import TaskKind
from heedful.store.database import insert_row
from heedful.store.problems import Conflict, NotFound, StoreError
from heedful.store.projects import Project, Settings, get, share_of
from heedful.store.tables import (
    assignments,
    completions,
    demonstrations,
    gold,
    projects,
    prompts,
    task_completions,
    tasks,
)

Pool = Literal["work", "gold", "drift"]
POOLS: tuple[Pool, ...] = ("work", "gold", "drift")
MIN_K, MAX_K = 2, 9  # the paper ranks 4 to 9; two make a constant pair
EVERYONE = 1_000_000  # labelers of a gold or drift task: no limit


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one kind of task has come in a project."""

    kind: TaskKind
    num_tasks: int
    num_open_slots: int
    num_leased: int
    num_answers: int
    num_skipped: int


def add_demonstration_task(
    connection: Connection, project: Project, prompt_number: int, *, priority: int = 0
) -> int:
    """The new task's number: one labeler (or several, by overlap) writes a response."""
    return _add(connection, project, "demonstration", prompt_number, priority=priority)


def add_ranking_task(
    connection: Connection,
    project: Project,
    prompt_number: int,
    completion_numbers: Sequence[int],
    *,
    pool: Pool = "work",
    priority: int = 0,
) -> int:
    """The new task's number: rate and rank these completions of a prompt."""
    num_given = len(completion_numbers)
    if not MIN_K <= num_given <= MAX_K or len(set(completion_numbers)) != num_given:
        raise StoreError(
            f"prompt {prompt_number} has {num_given} completions to rank: {MIN_K} to {MAX_K} "
            "different ones can be"
        )
    known = connection.execute(
        select(func.count())
        .select_from(completions)
        .where(completions.c.id.in_(completion_numbers), completions.c.prompt_id == prompt_number)
    ).scalar_one()
    if known != num_given:
        raise StoreError(f"not all of the completions belong to prompt {prompt_number}")
    task = _add(connection, project, "ranking", prompt_number, pool=pool, priority=priority)
    rows = [
        {"task_id": task, "position": place, "completion_id": number}
        for place, number in enumerate(completion_numbers)
    ]
    connection.execute(insert(task_completions), rows)
    return task


def add_prompt_task(
    connection: Connection,
    project: Project,
    prompt_kind: PromptKind,
    *,
    brief: str = "",
    priority: int = 0,
) -> int:
    """The new task's number: somebody writes a prompt; ``brief`` says of what (user-based)."""
    return _add(
        connection, project, "prompt", None, brief=brief, prompt_kind=prompt_kind, priority=priority
    )


def _add(
    connection: Connection,
    project: Project,
    kind: TaskKind,
    prompt_number: int | None,
    *,
    pool: Pool = "work",
    brief: str = "",
    prompt_kind: str | None = None,
    priority: int,
) -> int:
    author, state = None, "active"
    if prompt_number is not None:
        query = select(prompts.c.author_id, prompts.c.state).where(
            prompts.c.id == prompt_number, prompts.c.project_id == project.id
        )
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"there is no prompt {prompt_number} in project {project.name!r}")
        author, state = row
    task = insert_row(
        connection,
        tasks,
        project_id=project.id,
        kind=kind,
        prompt_id=prompt_number,
        author_id=author,
        brief=brief,
        prompt_kind=prompt_kind,
        pool=pool,
        state="open" if state == "active" else "held",
        priority=priority,
        lot=0.0,
        turn=0.0,
        target_n=0,
        open_slots=0,
        heldout_n=0,
        heldout_open=0,
    )
    # Both are the task's for good: the lot decides about overlap, the turn when the task is done.
    drawn = {name: share_of(project.seed, name, task) for name in ("lot", "turn")}
    connection.execute(update(tasks).where(tasks.c.id == task).values(drawn))
    set_targets(connection, project.settings, tasks.c.id == task)
    return task


def set_targets(connection: Connection, settings: Settings, where: Any) -> None:
    """Gives tasks the number of labelers that the settings ask for; answers that are there stay."""
    has_overlap = and_(tasks.c.lot < settings.overlap_fraction, tasks.c.kind != "prompt")
    is_shared = tasks.c.pool != "work"
    target = case((is_shared, EVERYONE), (has_overlap, settings.overlap_n), else_=1)
    heldout = case((is_shared, EVERYONE), (has_overlap, settings.heldout_n), else_=0)
    connection.execute(update(tasks).where(where).values(target_n=target, heldout_n=heldout))
    count_slots(connection, where)


def count_slots(connection: Connection, where: Any) -> None:
    """Counts the open slots of tasks anew: the target less what is leased or counts as answered."""
    free = {}
    for cohort, target in (("train", tasks.c.target_n), ("heldout", tasks.c.heldout_n)):
        taken = (
            select(func.count())
            .select_from(assignments)
            .where(assignments.c.task_id == tasks.c.id, assignments.c.cohort == cohort)
            .where(takes_slot())
            .scalar_subquery()
        )
        free[cohort] = case((target > taken, target - taken), else_=0)
    connection.execute(
        update(tasks)
        .where(where)
        .values(open_slots=free["train"], heldout_open=free["heldout"])
        .execution_options(synchronize_session=False)
    )


def takes_slot() -> Any:
    """The condition under which an assignment takes one of its task's slots."""
    return or_(
        assignments.c.state == "leased",
        and_(assignments.c.state == "submitted", assignments.c.is_extra.is_(False)),
    )


def change_settings(
    connection: Connection, project_id: int, settings: Settings, *, actor: int, now: float
) -> None:
    """Puts new settings to work at once: overlap, gold, leases."""
    project = get(connection, project_id)
    # Whoever changes a task's slots holds its row: nobody takes one while all are counted anew.
    mine = tasks.c.project_id == project.id
    connection.execute(select(tasks.c.id).where(mine).order_by(tasks.c.id).with_for_update()).all()
    connection.execute(
        update(projects).where(projects.c.id == project.id).values(settings=asdict(settings))
    )
    set_targets(connection, settings, mine)
    audit.record(
        connection,
        "change_settings",
        f"project/{project.id}",
        actor=actor,
        now=now,
        settings=asdict(settings),
    )


def lock_task(connection: Connection, task: int) -> None:
    """Waits until no other transaction works on a task; the rows read after this are current."""
    connection.execute(select(tasks.c.id).where(tasks.c.id == task).with_for_update())


def set_gold(
    connection: Connection, task: int, answer: dict[str, Any], *, actor: int, now: float
) -> None:
    """Makes a task gold, with the answer that labelers are measured against, or changes that."""
    _move(connection, task, "gold")
    connection.execute(gold.delete().where(gold.c.task_id == task))
    values = {"task_id": task, "answer": answer, "set_by": actor, "at": now}
    connection.execute(insert(gold).values(values))
    audit.record(connection, "set_gold", f"task/{task}", actor=actor, now=now)


def clear_gold(connection: Connection, task: int, *, actor: int, now: float) -> None:
    """Makes a gold task ordinary work again."""
    if connection.execute(gold.delete().where(gold.c.task_id == task)).rowcount == 0:
        raise Conflict(f"task {task} is not gold")
    _move(connection, task, "work")
    audit.record(connection, "clear_gold", f"task/{task}", actor=actor, now=now)


def _move(connection: Connection, task: int, pool: Pool) -> None:
    lock_task(connection, task)
    done = connection.execute(update(tasks).where(tasks.c.id == task).values(pool=pool))
    if done.rowcount == 0:
        raise NotFound(f"there is no task {task}")
    project = connection.execute(select(tasks.c.project_id).where(tasks.c.id == task)).scalar_one()
    set_targets(connection, get(connection, project).settings, tasks.c.id == task)


def kinds(connection: Connection, project_id: int) -> list[TaskKind]:
    """The kinds of tasks that a project has, done or not."""
    every: tuple[TaskKind, ...] = ("ranking", "demonstration", "prompt")
    return [kind for kind in every if _has_kind(connection, project_id, kind)]


def _has_kind(connection: Connection, project_id: int, kind: TaskKind) -> bool:
    mine = (tasks.c.project_id == project_id) & (tasks.c.kind == kind)
    return any(
        connection.execute(select(tasks.c.id).where(mine, tasks.c.pool == pool).limit(1)).first()
        for pool in POOLS
    )


def unanswered_prompts(connection: Connection, project_id: int) -> list[int]:
    """The numbers of prompts that labelers wrote which have no response, and no task for one."""
    answered = exists().where(demonstrations.c.prompt_id == prompts.c.id)
    asked = exists().where(tasks.c.prompt_id == prompts.c.id, tasks.c.kind == "demonstration")
    query = select(prompts.c.id).where(
        prompts.c.project_id == project_id,
        prompts.c.author_id.is_not(None),
        prompts.c.state == "active",
        ~answered,
        ~asked,
    )
    return list(connection.execute(query.order_by(prompts.c.id)).scalars())


def progress(connection: Connection, project_id: int) -> list[Progress]:
    """How far each kind of task has come; answers are those that count and extras."""
    open_by_kind = {
        row.kind: row
        for row in connection.execute(
            select(
                tasks.c.kind,
                func.count().label("num_tasks"),
                func.sum(case((tasks.c.state == "open", tasks.c.open_slots), else_=0)).label(
                    "num_open"
                ),
            )
            .where(tasks.c.project_id == project_id, tasks.c.pool == "work")
            .group_by(tasks.c.kind)
        )
    }
    counts: dict[tuple[str, str], int] = {
        (row.kind, row.state): row.n
        for row in connection.execute(
            select(assignments.c.kind, assignments.c.state, func.count().label("n"))
            .where(assignments.c.project_id == project_id)
            .group_by(assignments.c.kind, assignments.c.state)
        )
    }
    return [
        Progress(
            kind,
            row.num_tasks,
            int(row.num_open),
            counts.get((kind, "leased"), 0),
            counts.get((kind, "submitted"), 0),
            counts.get((kind, "skipped"), 0),
        )
        for kind, row in sorted(open_by_kind.items())
    ]
