"""Projects: their settings, guidelines and questions, and the prompts and completions in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, select, update

from heedful.records import Completion, Prompt
from heedful.store import audit
from heedful.store.answers import LabelSchema, check_text
from heedful.store.database import insert_new, insert_row
from heedful.store.problems import Conflict, NotFound, StoreError
from heedful.store.tables import (
    completions,
    guideline_reads,
    guidelines,
    label_schemas,
    projects,
    prompts,
    tasks,
)

PromptState = Literal["active", "quarantined", "removed"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a project assigns its work; all of it can be changed while people are at work."""

    overlap_fraction: float = 0.15
    """Share of tasks that several labelers do, to measure agreement; chosen by a hash."""
    overlap_n: int = 3
    """Labelers of a task in that share; the others have one (paper, 5.3)."""
    heldout_n: int = 1
    """Held-out labelers of a task in that share; they are given no others."""
    gold_fraction: float = 0.05
    """Share of a labeler's tasks that researchers have done too; labelers are not told."""
    drift_fraction: float = 0.02
    """Share of a labeler's tasks from the constant pairs that show drift over time."""
    lease_s: float | None = None
    """How long a task is a labeler's; None: three times the usual working time."""
    undo_s: float = 60.0
    """How long a submission can be taken back."""
    restore_s: float = 24 * 3600.0
    """How long a skip can be taken back."""

    def __post_init__(self) -> None:
        for name in ("overlap_fraction", "gold_fraction", "drift_fraction"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise StoreError(f"{name} is {value}: it has to be from 0 to 1")
        if self.gold_fraction + self.drift_fraction > 1.0:
            raise StoreError("gold_fraction and drift_fraction are more than 1 together")
        if self.overlap_n < 1 or self.heldout_n < 0:
            raise StoreError("overlap_n has to be 1 or more, heldout_n 0 or more")
        if self.lease_s is not None and self.lease_s <= 0:
            raise StoreError(f"lease_s is {self.lease_s}: it has to be more than 0 seconds")


@dataclass(frozen=True, slots=True)
class Project:
    """One project. ``seed`` decides every choice by hash in it, and is never exported."""

    id: int
    name: str
    seed: str
    settings: Settings
    created_at: float
    closed_at: float | None


@dataclass(frozen=True, slots=True)
class Guideline:
    """One version of the instructions; ``changes`` says what is new in it."""

    id: int
    number: int
    text: str
    changes: str
    created_at: float


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt with its number and state in the store."""

    id: int
    state: PromptState
    reason: str
    prompt: Prompt


def create(
    connection: Connection,
    name: str,
    *,
    seed: str,
    settings: Settings | None = None,
    guideline: str = "",
    schema: LabelSchema | None = None,
    actor: int,
    now: float,
) -> Project:
    """The new project, with its first guidelines and questions."""
    settings = settings or Settings()
    values = {
        "name": check_text(name, "name", limit=200),
        "seed": seed,
        "settings": asdict(settings),
        "created_at": now,
    }
    if not insert_new(connection, projects, values):
        raise Conflict(f"there is a project {name!r} already: take another name")
    made = by_name(connection, name)
    audit.record(connection, "create_project", f"project/{made.id}", actor=actor, now=now)
    publish_guideline(connection, made.id, guideline, "", actor=actor, now=now)
    publish_schema(connection, made.id, schema or LabelSchema(), actor=actor, now=now)
    return made


def get(connection: Connection, project_id: int) -> Project:
    """One project by its number."""
    row = connection.execute(select(projects).where(projects.c.id == project_id)).first()
    if row is None:
        raise NotFound(f"there is no project {project_id}")
    return _project(row)


def by_name(connection: Connection, name: str) -> Project:
    """One project by its name."""
    row = connection.execute(select(projects).where(projects.c.name == name)).first()
    if row is None:
        known = [project.name for project in all_projects(connection)]
        raise NotFound(f"there is no project {name!r}; there are {', '.join(known) or 'none'}")
    return _project(row)


def all_projects(connection: Connection) -> list[Project]:
    """Every project, oldest first."""
    return [_project(row) for row in connection.execute(select(projects).order_by(projects.c.id))]


def _project(row: Row[Any]) -> Project:
    return Project(**{**row._mapping, "settings": Settings(**row.settings)})


def set_closed(
    connection: Connection, project_id: int, closed: bool, *, actor: int, now: float
) -> None:
    """Closes a project (no new work; what is under way can be finished), or opens it again."""
    connection.execute(
        update(projects)
        .where(projects.c.id == project_id)
        .values(closed_at=now if closed else None)
    )
    action = "close_project" if closed else "open_project"
    audit.record(connection, action, f"project/{project_id}", actor=actor, now=now)


# Guidelines and questions, each in versions


def publish_guideline(
    connection: Connection, project_id: int, text: str, changes: str, *, actor: int, now: float
) -> Guideline:
    """The new version of the guidelines, which all work from now on is done under."""
    number = 1 + _newest_number(connection, guidelines, project_id)
    values = {
        "number": number,
        "text": check_text(text, "text", blank=True),
        "changes": changes,
        "created_at": now,
    }
    guideline_id = insert_row(connection, guidelines, project_id=project_id, **values)
    object = f"project/{project_id}"
    audit.record(connection, "publish_guideline", object, actor=actor, now=now, number=number)
    return Guideline(id=guideline_id, **values)


def guideline(connection: Connection, project_id: int) -> Guideline:
    """The newest guidelines of a project."""
    return guideline_history(connection, project_id)[0]


def guideline_history(connection: Connection, project_id: int) -> list[Guideline]:
    """All versions of the guidelines, newest first."""
    columns = [guidelines.c[name] for name in Guideline.__slots__]
    query = select(*columns).where(guidelines.c.project_id == project_id)
    rows = connection.execute(query.order_by(guidelines.c.number.desc())).all()
    if not rows:
        raise NotFound(f"there is no project {project_id}")
    return [Guideline(**row._mapping) for row in rows]


def unread_guidelines(connection: Connection, project_id: int, user_id: int) -> list[Guideline]:
    """The versions since the last that a person has read, newest first."""
    read = connection.execute(
        select(func.max(guidelines.c.number))
        .join(guideline_reads, guideline_reads.c.guideline_id == guidelines.c.id)
        .where(guidelines.c.project_id == project_id, guideline_reads.c.user_id == user_id)
    ).scalar_one()
    versions = guideline_history(connection, project_id)
    return [version for version in versions if version.number > (read or 0)]


def publish_schema(
    connection: Connection, project_id: int, schema: LabelSchema, *, actor: int, now: float
) -> LabelSchema:
    """The new version of the questions; answers keep the number of the one they answered."""
    number = 1 + _newest_number(connection, label_schemas, project_id)
    numbered = replace(schema, number=number)
    content = {key: value for key, value in asdict(numbered).items() if key != "number"}
    values = {"project_id": project_id, "number": number, "fields": content, "created_at": now}
    connection.execute(insert(label_schemas).values(values))
    object = f"project/{project_id}"
    audit.record(connection, "publish_schema", object, actor=actor, now=now, number=number)
    return numbered


def schema(connection: Connection, project_id: int) -> LabelSchema:
    """The newest questions of a project."""
    query = select(label_schemas).where(label_schemas.c.project_id == project_id)
    row = connection.execute(query.order_by(label_schemas.c.number.desc()).limit(1)).first()
    if row is None:
        raise NotFound(f"there is no project {project_id}")
    return schema_of(row.fields, row.number)


def schema_of(content: dict[str, Any], number: int) -> LabelSchema:
    """The questions out of their JSON form."""
    lists = {key: tuple(content[key]) for key in ("rating_flags", "prompt_flags")}
    return LabelSchema(mode=content["mode"], number=number, **lists)


def _newest_number(connection: Connection, table: Any, project_id: int) -> int:
    query = select(func.max(table.c.number)).where(table.c.project_id == project_id)
    return connection.execute(query).scalar_one() or 0


# Prompts and completions


def add_prompts(
    connection: Connection,
    project_id: int,
    given: Iterable[Prompt],
    *,
    author_id: int | None = None,
    submission_id: int | None = None,
    actor: int,
    now: float,
) -> dict[str, int]:
    """{prompt id: number in the store} of the given prompts; those that are there stay as they are.

    Import large files in pieces of some hundreds: one transaction holds up all other writing.
    """
    numbers: dict[str, int] = {}
    num_new = 0
    for prompt in given:
        found = _prompt_number(connection, project_id, prompt.id)
        if found is None:
            found = _add_prompt(connection, project_id, prompt, author_id, submission_id)
            num_new += 1
        numbers[prompt.id] = found
    audit.record(
        connection, "add_prompts", f"project/{project_id}", actor=actor, now=now, num_new=num_new
    )
    return numbers


def _add_prompt(
    connection: Connection,
    project_id: int,
    prompt: Prompt,
    author_id: int | None,
    submission_id: int | None,
) -> int:
    check_text(prompt.text, f"prompt {prompt.id}")
    values = {
        "project_id": project_id,
        "name": check_text(prompt.id, "prompt id", limit=200),
        "text": prompt.text,
        "source": prompt.source,
        "kind": prompt.kind,
        "source_user": prompt.user,
        "use_case": prompt.use_case,
        "split": prompt.split,
        "language": prompt.language,
        "author_id": author_id,
        "submission_id": submission_id,
        "state": "active",
        "reason": "",
    }
    return insert_row(connection, prompts, **values)


def _prompt_number(connection: Connection, project_id: int, name: str) -> int | None:
    query = select(prompts.c.id).where(prompts.c.project_id == project_id, prompts.c.name == name)
    return connection.execute(query).scalar()


def add_completions(
    connection: Connection, prompt_number: int, given: Sequence[Completion]
) -> list[int]:
    """The numbers of a prompt's completions, in the order given; those that are there stay."""
    numbers = []
    for completion in given:
        check_text(completion.text, f"completion {completion.id}", blank=True)
        values = {
            "prompt_id": prompt_number,
            "name": check_text(completion.id, "completion id", limit=200),
            "text": completion.text,
            "model": completion.model,
            "finished": completion.finished,
        }
        insert_new(connection, completions, values)
        query = select(completions.c.id).where(
            completions.c.prompt_id == prompt_number, completions.c.name == completion.id
        )
        numbers.append(connection.execute(query).scalar_one())
    return numbers


def prompt(connection: Connection, prompt_number: int) -> StoredPrompt:
    """One prompt by its number in the store."""
    row = connection.execute(select(prompts).where(prompts.c.id == prompt_number)).first()
    if row is None:
        raise NotFound(f"there is no prompt {prompt_number}")
    return _stored(row)


def list_prompts(
    connection: Connection,
    project_id: int,
    *,
    state: PromptState | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[StoredPrompt]:
    """The prompts of a project by number, from after one on; those in quarantine, say."""
    query = select(prompts).where(prompts.c.project_id == project_id, prompts.c.id > after)
    if state is not None:
        query = query.where(prompts.c.state == state)
    return [_stored(row) for row in connection.execute(query.order_by(prompts.c.id).limit(limit))]


def _stored(row: Row[Any]) -> StoredPrompt:
    content = Prompt(
        id=row.name,
        text=row.text,
        source=row.source,
        kind=row.kind,
        user=row.source_user,
        use_case=row.use_case,
        split=row.split,
        language=row.language,
    )
    return StoredPrompt(row.id, row.state, row.reason, content)


# Quarantine: a prompt that a labeler has flagged is neither given out nor exported


def quarantine(
    connection: Connection, prompt_number: int, reason: str, *, actor: int, now: float
) -> None:
    """Takes a prompt out of circulation until somebody has decided; work under way may end."""
    done = connection.execute(
        update(prompts)
        .where(prompts.c.id == prompt_number, prompts.c.state == "active")
        .values(state="quarantined", reason=reason)
    )
    if done.rowcount:
        _set_tasks(connection, prompt_number, "open", "held")
        object = f"prompt/{prompt_number}"
        audit.record(connection, "quarantine", object, actor=actor, now=now)


def release(connection: Connection, prompt_number: int, *, actor: int, now: float) -> None:
    """Puts a prompt from quarantine back to work."""
    done = connection.execute(
        update(prompts)
        .where(prompts.c.id == prompt_number, prompts.c.state == "quarantined")
        .values(state="active", reason="")
    )
    if done.rowcount == 0:
        raise Conflict(f"prompt {prompt_number} is not in quarantine")
    _set_tasks(connection, prompt_number, "held", "open")
    audit.record(connection, "release", f"prompt/{prompt_number}", actor=actor, now=now)


def _set_tasks(connection: Connection, prompt_number: int, old: str, new: str) -> None:
    connection.execute(
        update(tasks)
        .where(tasks.c.prompt_id == prompt_number, tasks.c.state == old)
        .values(state=new)
    )


def share_of(seed: str, *what: object) -> float:
    """A number from 0 to 1 (not 1) that a hash of the seed and ``what`` decides, for good."""
    text = "/".join([seed, *map(str, what)])
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2.0**48
