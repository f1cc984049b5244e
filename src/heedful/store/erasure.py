"""Taking people's data out: a labeler's, a customer's, or one prompt's.

What they wrote is deleted, with every answer that rests on it; the numbers stay, so that the record
of what happened stays whole. Files that were made before cannot be called back: the answer names
the snapshots that hold the data, so that these and the models trained on them can be dealt with.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, or_, select, update

from heedful.store import audit, labels
from heedful.store.people import normal_email, user
from heedful.store.pools import count_slots
from heedful.store.problems import Conflict, NotFound
from heedful.store.snapshot import Snapshot, all_snapshots, labeler_key, source_key
from heedful.store.tables import (
    adjudications,
    assignments,
    attempts,
    completions,
    drafts,
    gold,
    guideline_reads,
    invitations,
    memberships,
    messages,
    prompts,
    recovery_codes,
    screening_answers,
    screening_grades,
    sessions,
    snapshot_people,
    snapshots,
    submissions,
    surveys,
    task_completions,
    tasks,
    tickets,
    users,
)

AT_ONCE = 500
LINEAGE_FILE = "heedful.json"


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has removed, and the snapshots that were made with it before."""

    num_answers: int
    num_prompts: int
    snapshots: tuple[Snapshot, ...]


def erase_labeler(connection: Connection, user_id: int, *, actor: int, now: float) -> Erased:
    """Deletes an account with all that it has written; its tasks are open for others again."""
    account = user(connection, user_id)
    if account.state == "deleted":
        raise Conflict(f"the data of user {user_id} were erased already")
    written = select(prompts.c.id).where(prompts.c.author_id == user_id)
    numbers = list(connection.execute(written).scalars())
    _empty_prompts(connection, numbers)
    mine = select(assignments.c.id, assignments.c.task_id).where(
        assignments.c.labeler_id == user_id
    )
    held = connection.execute(mine.order_by(assignments.c.task_id)).all()
    num_answers = 0
    for part in _parts(held):
        in_part = tasks.c.id.in_([row.task_id for row in part])
        connection.execute(select(tasks.c.id).where(in_part).order_by(tasks.c.id).with_for_update())
        ids = [row.id for row in part]
        num_answers += _drop_submissions(connection, ids)
        for table in (drafts, messages):
            connection.execute(delete(table).where(table.c.assignment_id.in_(ids)))
        connection.execute(delete(assignments).where(assignments.c.id.in_(ids)))
        count_slots(connection, in_part)
    _drop_account(connection, user_id, account.email)
    found = _snapshots_with(connection, [labeler_key(user_id)])
    _record(connection, f"user/{user_id}", actor, now, num_answers, len(numbers), found)
    return Erased(num_answers, len(numbers), found)


def erase_source_user(
    connection: Connection, project_id: int, source_user: str, *, actor: int, now: float
) -> Erased:
    """Deletes all prompts of a customer in a project, with the answers to them."""
    query = select(prompts.c.id).where(
        prompts.c.project_id == project_id, prompts.c.source_user == source_user
    )
    numbers = list(connection.execute(query.order_by(prompts.c.id)).scalars())
    if not numbers:
        raise NotFound(f"project {project_id} has no prompts of {source_user!r}")
    num_answers = _empty_prompts(connection, numbers)
    found = _snapshots_with(connection, [source_key(project_id, source_user)])
    _record(connection, f"project/{project_id}", actor, now, num_answers, len(numbers), found)
    return Erased(num_answers, len(numbers), found)


def erase_prompt(connection: Connection, prompt_number: int, *, actor: int, now: float) -> Erased:
    """Deletes one prompt (from quarantine, say) with its completions and the answers to it."""
    project_id = connection.execute(
        select(prompts.c.project_id).where(
            prompts.c.id == prompt_number, prompts.c.state != "removed"
        )
    ).scalar()
    if project_id is None:
        raise NotFound(f"there is no prompt {prompt_number}")
    num_answers = _empty_prompts(connection, [prompt_number])
    found = tuple(all_snapshots(connection, project_id))  # any of them may hold it
    _record(connection, f"prompt/{prompt_number}", actor, now, num_answers, 1, found)
    return Erased(num_answers, 1, found)


def checkpoints_with(made: Iterable[Snapshot], runs: Collection[Path]) -> list[Path]:
    """The model directories below ``runs`` whose lineage names a file of these snapshots, or one
    made out of them.

    Models trained further on such a model are among them, by the hash of their parent's weights.
    """
    hashes = {file["sha256"] for snapshot in made for file in snapshot.files.values()}
    hashes |= {sha256 for snapshot in made for sha256 in snapshot.exports}
    lineages: dict[Path, dict[str, Any]] = {}
    for run in runs:
        for path in sorted(run.rglob(LINEAGE_FILE)):
            lineages[path.parent] = json.loads(path.read_text(encoding="utf-8"))
    found: dict[Path, str | None] = {}
    while True:
        weights = {sha256 for sha256 in found.values() if sha256}
        more = {
            path: lineage.get("sha256")
            for path, lineage in lineages.items()
            if path not in found
            and (
                hashes & set(lineage.get("data", {}).values())
                or weights & {p.get("sha256") for p in lineage.get("parents", {}).values()}
            )
        }
        if not more:
            return sorted(found)
        found |= more


def _empty_prompts(connection: Connection, numbers: list[int]) -> int:
    """How many answers went with these prompts' texts and completions; their tasks are closed."""
    num_answers = 0
    for part in _parts(numbers):
        theirs = select(tasks.c.id).where(tasks.c.prompt_id.in_(part))
        locked = theirs.order_by(tasks.c.id).with_for_update()
        of_part = list(connection.execute(locked).scalars())
        held = select(assignments.c.id).where(assignments.c.task_id.in_(of_part))
        ids = list(connection.execute(held).scalars())
        num_answers += _drop_submissions(connection, ids)
        for table in (drafts, messages):
            connection.execute(delete(table).where(table.c.assignment_id.in_(ids)))
        connection.execute(delete(assignments).where(assignments.c.id.in_(ids)))
        for table in (gold, adjudications, task_completions):
            connection.execute(delete(table).where(table.c.task_id.in_(of_part)))
        closed = {"state": "closed", "open_slots": 0, "heldout_open": 0}
        closed |= {"target_n": 0, "heldout_n": 0, "pool": "work"}
        connection.execute(update(tasks).where(tasks.c.id.in_(of_part)).values(closed))
        # A prompt that a labeler has written has its demonstrations in that labeler's submission.
        theirs = labels.demonstrations.c.prompt_id.in_(part)
        connection.execute(delete(labels.demonstrations).where(theirs))
        connection.execute(delete(completions).where(completions.c.prompt_id.in_(part)))
        for number in part:
            empty = {"name": f"removed-{number}", "text": "", "source_user": None, "reason": ""}
            connection.execute(
                update(prompts).where(prompts.c.id == number).values(**empty, state="removed")
            )
    return num_answers


def _drop_submissions(connection: Connection, assignment_ids: list[str]) -> int:
    query = select(submissions.c.id).where(submissions.c.assignment_id.in_(assignment_ids))
    numbers = list(connection.execute(query).scalars())
    labels.drop_rows(connection, numbers)
    connection.execute(delete(submissions).where(submissions.c.id.in_(numbers)))
    return len(numbers)


def _drop_account(connection: Connection, user_id: int, email: str) -> None:
    connection.execute(delete(messages).where(messages.c.author_id == user_id))
    own = select(screening_answers.c.id).where(screening_answers.c.user_id == user_id)
    connection.execute(
        delete(screening_grades).where(screening_grades.c.screening_answer_id.in_(own))
    )
    for table in (
        screening_answers,
        surveys,
        guideline_reads,
        sessions,
        tickets,
        recovery_codes,
        memberships,
    ):
        connection.execute(delete(table).where(table.c.user_id == user_id))
    connection.execute(delete(attempts).where(attempts.c.subject.in_([email, str(user_id)])))
    invited = or_(invitations.c.accepted_by == user_id, invitations.c.email == normal_email(email))
    connection.execute(update(invitations).where(invited).values(email=""))
    connection.execute(
        update(users)
        .where(users.c.id == user_id)
        .values(
            email=f"deleted-{user_id}",
            name="",
            password_hash=None,
            totp_secret=None,
            settings={},
            state="deleted",
        )
    )


def _snapshots_with(connection: Connection, people: list[str]) -> tuple[Snapshot, ...]:
    holds = snapshot_people.c.person.in_(people)
    held = connection.execute(select(snapshot_people.c.snapshot_id).where(holds)).scalars()
    numbers = set(held)
    query = select(snapshots.c.project_id).where(snapshots.c.id.in_(numbers)).distinct()
    projects = connection.execute(query.order_by(snapshots.c.project_id)).scalars().all()
    found = [made for project in projects for made in all_snapshots(connection, project)]
    connection.execute(delete(snapshot_people).where(holds))
    return tuple(made for made in found if made.id in numbers)


def _record(
    connection: Connection,
    object: str,
    actor: int,
    now: float,
    num_answers: int,
    num_prompts: int,
    found: tuple[Snapshot, ...],
) -> None:
    audit.record(
        connection,
        "erase",
        object,
        actor=actor,
        now=now,
        num_answers=num_answers,
        num_prompts=num_prompts,
        snapshots=[made.id for made in found],
    )


def _parts(values: Iterable[Any]) -> list[list[Any]]:
    """Lists short enough for a statement to name each value."""
    given = list(values)
    return [given[start : start + AT_ONCE] for start in range(0, len(given), AT_ONCE)]
