"""A project's data as files that train: ``prompts.jsonl``, ``demonstrations.jsonl``,
``comparisons.jsonl``, ``prompt_labels.jsonl`` and ``manifest.json``.

The same data give the same bytes: rows stand in the order of their numbers, keys in a fixed order,
and nothing in the files tells when or where they were written. Left out are prompts in quarantine,
answers of held-out labelers, and gold and drift tasks, which everybody is given; ``Query`` can ask
for the last two. People are named by pseudonyms that differ from project to project.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from heedful.records import Completion, Demonstration, Prompt, Ranking, to_row
from heedful.store import audit
from heedful.store.database import insert_new
from heedful.store.labels import RankingRow, ranking_rows
from heedful.store.problems import Conflict
from heedful.store.projects import Project, get, guideline_history
from heedful.store.tables import (
    assignments,
    completions,
    demonstrations,
    guidelines,
    label_schemas,
    prompt_labels,
    prompts,
    snapshot_exports,
    snapshot_people,
    snapshots,
    submissions,
    task_completions,
    tasks,
    users,
)

MANIFEST = "manifest.json"
ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Query:
    """What a snapshot holds beyond the rule."""

    heldout: bool = False
    """Answers of held-out labelers too, marked; training leaves them out and validates on them."""
    shared: bool = False
    """Answers to gold and drift tasks too, marked."""
    extra: bool = True
    """Answers beyond a task's target, which came after the lease had ended."""


@dataclass(slots=True)
class Written:
    """A snapshot that was written: its identity, its files, and whose data is in it."""

    project_id: int
    query: Query
    manifest_sha256: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    people: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that has been made."""

    id: int
    project_id: int
    manifest_sha256: str
    files: dict[str, dict[str, Any]]
    query: Query
    created_by: int | None
    created_at: float
    exports: dict[str, str] = field(default_factory=dict[str, str])
    """What was made out of it, pairs and Parquet: the names by the sha256 of each file."""


def labeler_name(project: Project, user_id: int) -> str:
    """The pseudonym of a labeler in a project's files."""
    return f"labeler-{_hidden(project, 'labeler', user_id)}"


def source_name(project: Project, source_user: str) -> str:
    """The pseudonym of the customer who wrote a prompt."""
    return f"user-{_hidden(project, 'source', source_user)}"


def _hidden(project: Project, kind: str, name: object) -> str:
    text = f"{project.seed}/{kind}/{name}"
    return blake2b(text.encode(), digest_size=6).hexdigest()


def write(
    connection: Connection, project_id: int, directory: Path, query: Query | None = None
) -> Written:
    """Writes the files of a project as it stands; ``note`` then enters them in the store.

    The connection is one that reads. The manifest comes last: with it the directory is whole.
    """
    project = get(connection, project_id)
    written = Written(project_id, query or Query())
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    rows_of = {
        "prompts": _prompt_rows(connection, project, written),
        "demonstrations": _demonstration_rows(connection, project, written),
        "comparisons": _comparison_rows(connection, project, written),
        "prompt_labels": _prompt_label_rows(connection, project, written),
    }
    for kind, rows in rows_of.items():
        tally: Counter[tuple[str, str]] = Counter()
        name = f"{kind}.jsonl"
        written.files[name] = _write_rows(directory / name, rows, tally)
        counts[kind] = {}
        for (split, group), number in sorted(tally.items()):
            counts[kind].setdefault(split, {})[group] = number
    manifest = {
        "project": project.name,
        "query": asdict(written.query),
        "counts": counts,
        "files": written.files,
        "guidelines": {
            str(version.number): hashlib.sha256(version.text.encode()).hexdigest()
            for version in reversed(guideline_history(connection, project_id))
        },
        "schemas": _schemas(connection, project_id),
    }
    content = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    written.manifest_sha256 = hashlib.sha256(content.encode()).hexdigest()
    replace_file(directory / MANIFEST, [content])
    return written


def note(connection: Connection, written: Written, *, actor: int | None, now: float) -> int:
    """The number of a written snapshot in the store, with whose data it holds.

    The same snapshot written again has the same number. Conflict where somebody's data were erased
    while it was being written: such files must be deleted.
    """
    gone = _erased(connection, written)
    if gone:
        raise Conflict(
            f"data of {len(gone)} people were erased while the snapshot was written: delete the "
            "files and write it again"
        )
    values = {
        "project_id": written.project_id,
        "manifest_sha256": written.manifest_sha256,
        "files": written.files,
        "query": asdict(written.query),
        "created_by": actor,
        "created_at": now,
    }
    is_new = insert_new(connection, snapshots, values)
    query = select(snapshots.c.id).where(
        snapshots.c.project_id == written.project_id,
        snapshots.c.manifest_sha256 == written.manifest_sha256,
    )
    number: int = connection.execute(query).scalar_one()
    if is_new and written.people:
        rows = [{"snapshot_id": number, "person": person} for person in sorted(written.people)]
        connection.execute(insert(snapshot_people), rows)
    sha256 = written.manifest_sha256
    audit.record(connection, "snapshot", f"snapshot/{number}", actor=actor, now=now, sha256=sha256)
    return number


def all_snapshots(connection: Connection, project_id: int) -> list[Snapshot]:
    """The snapshots made of a project, newest first."""
    query = select(snapshots).where(snapshots.c.project_id == project_id)
    rows = connection.execute(query.order_by(snapshots.c.id.desc())).all()
    mine = snapshot_exports.c.snapshot_id.in_([row.id for row in rows])
    made: dict[int, dict[str, str]] = {row.id: {} for row in rows}
    for one in connection.execute(select(snapshot_exports).where(mine)):
        made[one.snapshot_id][one.sha256] = one.name
    return [
        Snapshot(**{**row._mapping, "query": Query(**row.query)}, exports=made[row.id])
        for row in rows
    ]


def note_export(
    connection: Connection, number: int, name: str, sha256: str, *, actor: int | None, now: float
) -> None:
    """Keeps the hash of a file made out of a snapshot, so that an erasure finds what used it."""
    values = {"snapshot_id": number, "sha256": sha256, "name": name, "made_at": now}
    if insert_new(connection, snapshot_exports, values):
        object = f"snapshot/{number}"
        audit.record(connection, "export", object, actor=actor, now=now, name=name, sha256=sha256)


def labeler_key(user_id: int) -> str:
    """How the store notes that a labeler's data is in a snapshot."""
    return f"labeler/{user_id}"


def source_key(project_id: int, source_user: str) -> str:
    """How the store notes that a customer's data is in a snapshot."""
    return f"source/{project_id}/{source_user}"


def _erased(connection: Connection, written: Written) -> set[str]:
    deleted = connection.execute(select(users.c.id).where(users.c.state == "deleted")).scalars()
    here = connection.execute(
        select(prompts.c.source_user)
        .where(prompts.c.project_id == written.project_id, prompts.c.source_user.is_not(None))
        .distinct()
    ).scalars()
    sources = {person for person in written.people if person.startswith("source/")}
    gone = sources - {source_key(written.project_id, name) for name in here if name is not None}
    return gone | (written.people & {labeler_key(number) for number in deleted})


# Rows


def _prompt_rows(
    connection: Connection, project: Project, written: Written
) -> Iterator[tuple[dict[str, Any], str]]:
    query = (
        select(prompts, assignments.c.cohort)
        .outerjoin(submissions, submissions.c.id == prompts.c.submission_id)
        .outerjoin(assignments, assignments.c.id == submissions.c.assignment_id)
        .where(prompts.c.project_id == project.id, prompts.c.state == "active")
        .order_by(prompts.c.id)
    )
    for row in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
        if row.cohort == "heldout" and not written.query.heldout:
            continue
        user = None
        if row.author_id is not None:
            user = labeler_name(project, row.author_id)
            written.people.add(labeler_key(row.author_id))
        elif row.source_user is not None:
            user = source_name(project, row.source_user)
            written.people.add(source_key(project.id, row.source_user))
        record = Prompt(
            id=row.name,
            text=row.text,
            source=row.source,
            kind=row.kind,
            user=user,
            use_case=row.use_case,
            split=row.split,
            language=row.language,
        )
        yield to_row(record), record.source


def _demonstration_rows(
    connection: Connection, project: Project, written: Written
) -> Iterator[tuple[dict[str, Any], str]]:
    query = (
        select(
            demonstrations,
            prompts.c.name,
            prompts.c.text,
            prompts.c.split,
            prompts.c.source,
            assignments.c.cohort,
            assignments.c.is_extra,
            guidelines.c.number.label("guideline"),
        )
        .join(prompts, prompts.c.id == demonstrations.c.prompt_id)
        .join(submissions, submissions.c.id == demonstrations.c.submission_id)
        .join(assignments, assignments.c.id == submissions.c.assignment_id)
        .join(guidelines, guidelines.c.id == assignments.c.guideline_id)
        .where(prompts.c.project_id == project.id, prompts.c.state == "active")
        .order_by(demonstrations.c.submission_id, demonstrations.c.prompt_id)
    )
    for row in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
        if not _is_wanted(row.cohort, row.is_extra, "work", written.query):
            continue
        written.people.add(labeler_key(row.labeler_id))
        record = Demonstration(
            row.name, row.text, row.response, labeler_name(project, row.labeler_id), row.split
        )
        more = {"cohort": row.cohort, "extra": row.is_extra, "guideline": row.guideline}
        yield to_row(record) | more, row.source


def _comparison_rows(
    connection: Connection, project: Project, written: Written
) -> Iterator[tuple[dict[str, Any], str]]:
    given = ranking_rows(connection, project.id)
    while rows := list(islice(given, ROWS_AT_ONCE)):
        wanted = [r for r in rows if _is_wanted(r.cohort, r.is_extra, r.pool, written.query)]
        shown = _prompts_of(connection, {row.prompt_id for row in wanted})
        outputs = _completions_of(connection, {row.task_id for row in wanted})
        for row in wanted:
            if row.prompt_id not in shown:  # in quarantine, or removed
                continue
            prompt = shown[row.prompt_id]
            written.people.add(labeler_key(row.labeler_id))
            record = Ranking(
                prompt_id=prompt.name,
                prompt=prompt.text,
                completions=tuple(outputs[row.task_id]),
                ranks=dense(row.ranks),
                labeler=labeler_name(project, row.labeler_id),
                cohort=row.cohort,
                ratings=row.ratings,
                split=prompt.split,
            )
            yield to_row(record) | _about(row), prompt.source


def _prompt_label_rows(
    connection: Connection, project: Project, written: Written
) -> Iterator[tuple[dict[str, Any], str]]:
    """What labelers said of prompts while they answered them: ``yes`` and ``no`` name flags."""
    query = (
        select(
            prompt_labels,
            prompts.c.name,
            prompts.c.split,
            prompts.c.source,
            assignments.c.labeler_id,
            assignments.c.cohort,
            assignments.c.is_extra,
            tasks.c.pool,
            guidelines.c.number.label("guideline"),
            label_schemas.c.number.label("schema"),
        )
        .join(prompts, prompts.c.id == prompt_labels.c.prompt_id)
        .join(submissions, submissions.c.id == prompt_labels.c.submission_id)
        .join(assignments, assignments.c.id == submissions.c.assignment_id)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .join(guidelines, guidelines.c.id == assignments.c.guideline_id)
        .join(label_schemas, label_schemas.c.id == assignments.c.label_schema_id)
        .where(prompts.c.project_id == project.id, prompts.c.state == "active")
        .order_by(prompt_labels.c.submission_id)
    )
    for row in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
        if not _is_wanted(row.cohort, row.is_extra, row.pool, written.query):
            continue
        written.people.add(labeler_key(row.labeler_id))
        said = {
            answer: sorted(flag for flag, given in row.flags.items() if given is is_yes)
            for answer, is_yes in (("yes", True), ("no", False))
        }
        labels = {"prompt_id": row.name, "use_case": row.use_case, **said}
        about = {"labeler": labeler_name(project, row.labeler_id), "cohort": row.cohort}
        more = {"split": row.split, "pool": row.pool, "extra": row.is_extra}
        versions = {"guideline": row.guideline, "schema": row.schema}
        yield labels | about | more | versions, row.source


def _about(row: RankingRow) -> dict[str, Any]:
    return {
        "display_order": list(row.display_order),
        "pool": row.pool,
        "extra": row.is_extra,
        "guideline": row.guideline,
        "schema": row.schema,
    }


def _is_wanted(cohort: str, is_extra: bool, pool: str, query: Query) -> bool:
    return (
        (cohort == "train" or query.heldout)
        and (not is_extra or query.extra)
        and (pool == "work" or query.shared)
    )


def dense(ranks: Iterable[int]) -> tuple[int, ...]:
    """The ranks without gaps: 1, 3, 3, 5 become 1, 2, 2, 3."""
    given = list(ranks)
    place = {rank: number for number, rank in enumerate(sorted(set(given)), start=1)}
    return tuple(place[rank] for rank in given)


def _prompts_of(connection: Connection, numbers: set[int]) -> dict[int, Any]:
    query = select(
        prompts.c.id, prompts.c.name, prompts.c.text, prompts.c.split, prompts.c.source
    ).where(prompts.c.id.in_(numbers), prompts.c.state == "active")
    return {row.id: row for row in connection.execute(query)}


def _completions_of(connection: Connection, task_numbers: set[int]) -> dict[int, list[Completion]]:
    query = (
        select(task_completions.c.task_id, completions)
        .join(completions, completions.c.id == task_completions.c.completion_id)
        .where(task_completions.c.task_id.in_(task_numbers))
        .order_by(task_completions.c.task_id, task_completions.c.position)
    )
    found: dict[int, list[Completion]] = {}
    for row in connection.execute(query):
        output = Completion(row.name, row.text, row.model, row.finished)
        found.setdefault(row.task_id, []).append(output)
    return found


def _schemas(connection: Connection, project_id: int) -> dict[str, Any]:
    query = select(label_schemas).where(label_schemas.c.project_id == project_id)
    rows = connection.execute(query.order_by(label_schemas.c.number))
    return {str(row.number): row.fields for row in rows}


# Files


def _write_rows(
    path: Path, rows: Iterable[tuple[dict[str, Any], str]], tally: Counter[tuple[str, str]]
) -> dict[str, Any]:
    """Rows, bytes and sha256 of a file of JSON lines; ``tally`` counts by split and source."""
    digest = hashlib.sha256()
    num_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal num_bytes
        for row, source in rows:
            tally[row["split"], source] += 1
            line = json.dumps(row, ensure_ascii=False) + "\n"
            data = line.encode()
            digest.update(data)
            num_bytes += len(data)
            yield line

    replace_file(path, lines())
    return {"rows": sum(tally.values()), "bytes": num_bytes, "sha256": digest.hexdigest()}


def replace_file(path: Path, lines: Iterable[str]) -> None:
    """Writes a file beside its place and moves it there when the disk has all of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
