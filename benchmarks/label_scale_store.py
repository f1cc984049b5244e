"""A large store for ``label_scale.py``: filled through the store's own tables, in bulk.

Every ranking task has four outputs of a hidden worth, which labelers see with noise and rank with
ties; most tasks have three labelers and the rest one, 60 are gold or constant tasks that everybody
has answered, and the last of the tasks are open for those who come to work. The answers are spread
over the last 60 days.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from hashlib import blake2b, sha256
from typing import Any

from label_service import DAY_S, NUM_OUTPUTS, Person
from sqlalchemy import Connection, func, insert, select, text

from heedful.records import USE_CASES
from heedful.store import audit, people, projects, sessions
from heedful.store.answers import LabelSchema
from heedful.store.database import Database
from heedful.store.pools import EVERYONE
from heedful.store.tables import (
    assignments,
    completions,
    drafts,
    gold,
    prompt_labels,
    prompts,
    rankings,
    ratings,
    submissions,
    task_completions,
    tasks,
    users,
)

NAME = "scale"
NUM_GOLD, NUM_DRIFT = 40, 20
OPEN_SHARE, FEWEST_OPEN = 0.05, 400
SPAN_S = 60 * DAY_S
BATCH = 1000
SENTENCE = "An output of some length, as models write them. "  # about 50 characters
NAMES = sorted(USE_CASES)
NUMBERED = (prompts, completions, tasks, submissions)


def fill(
    database: Database, num_prompts: int, num_ratings: int, num_labelers: int
) -> dict[str, int]:
    """The counts of the store, which is filled if it is empty."""
    with database.read() as connection:
        is_empty = not projects.all_projects(connection)
    if is_empty:
        _fill(database, num_prompts, num_ratings // NUM_OUTPUTS, num_labelers)
    with database.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (prompts, rankings, ratings)
        }


def people_of(database: Database) -> tuple[Person, list[Person]]:
    """A researcher and the labelers of the store, each with a new session."""
    now = time.time()

    def enter(connection: Connection, user_id: int) -> Person:
        cookie, token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        sessions.start(
            connection,
            user_id,
            token_sha256=sha256(cookie.encode()).hexdigest(),
            csrf_token=token,
            expires_at=now + DAY_S,
            now=now,
        )
        return Person(projects.by_name(connection, NAME).id, cookie, token)

    def everybody(connection: Connection) -> list[Person]:
        query = select(users.c.id).order_by(users.c.id)
        return [enter(connection, number) for number in connection.execute(query).scalars()]

    staff, *labelers = database.write(everybody)
    return staff, labelers


def _fill(database: Database, num_prompts: int, num_rankings: int, num_labelers: int) -> None:
    now = time.time()
    project, labelers = database.write(lambda c: _begin(c, num_labelers, now))
    num_open = max(round(OPEN_SHARE * num_prompts), FEWEST_OPEN)
    num_special = min(NUM_GOLD + NUM_DRIFT, num_prompts // 10)
    num_work = num_prompts - num_open - num_special
    # So many tasks with three labelers that all answers together are as many as were asked for.
    num_shared = (num_rankings - num_special * num_labelers - num_work) // 2
    if not 0 <= num_shared <= num_work:
        raise ValueError(f"{num_rankings} rankings do not fit {num_prompts} prompts")
    given = _Answers(project, labelers, num_rankings, now)
    for first in range(1, num_prompts + 1, BATCH):
        some = range(first, min(first + BATCH, num_prompts + 1))

        def work(connection: Connection, some: range = some) -> None:
            for task in some:
                if task <= num_special:
                    given.add_task(task, "gold" if task <= num_special * 2 // 3 else "drift")
                    given.answer(task, labelers)
                elif task <= num_special + num_work:
                    num = 3 if task <= num_special + num_shared else 1
                    given.add_task(task, "work", num, num)
                    given.answer(task, given.chance.sample(labelers, num))
                else:
                    given.add_task(task, "work", 1, 0)
            given.flush(connection)

        database.write(work)
    database.write(_finish)


def _begin(connection: Connection, num_labelers: int, now: float) -> tuple[int, list[int]]:
    """The numbers of the project and of its labelers."""
    staff = people.add_user(connection, "r@x", "Rea", "researcher", None, actor=None, now=now).id
    people.change_user(connection, staff, totp_secret="X" * 16, actor=None, now=now)
    project = projects.create(
        connection,
        NAME,
        seed=NAME,
        schema=LabelSchema(mode="fast"),
        actor=staff,
        now=now,
    )
    labelers = []
    for number in range(num_labelers):
        account = people.add_user(
            connection, f"l{number}@x", f"Labeler {number}", "labeler", None, actor=staff, now=now
        )
        people.join(connection, project.id, account.id, actor=staff, now=now)
        labelers.append(account.id)
    return project.id, labelers


def _finish(connection: Connection) -> None:
    """Numbers given from now on come after those that were inserted; statistics for the planner."""
    if connection.dialect.name == "postgresql":
        for table in NUMBERED:
            name = f"pg_get_serial_sequence('{table.name}', 'id')"
            connection.execute(text(f"SELECT setval({name}, max(id)) FROM {table.name}"))
        connection.execute(text("ANALYZE"))


class _Answers:
    """Rows of tasks and answers, made in the order of their numbers, written by the batch."""

    def __init__(self, project: int, labelers: list[int], num_rankings: int, now: float):
        self.project, self.now = project, now
        self.chance = random.Random(1)
        self.noise = {one: self.chance.uniform(0.3, 1.2) for one in labelers}
        self.step_s = SPAN_S / num_rankings
        self.num_given = 0
        self.rows: dict[Any, list[dict[str, Any]]] = {}
        self.log: list[tuple[str, str, int, float, int]] = []
        self.worth: dict[int, list[float]] = {}

    def _add(self, table: Any, **values: Any) -> None:
        self.rows.setdefault(table, []).append(values)

    def add_task(self, task: int, pool: str, target: int = EVERYONE, answered: int = 0) -> None:
        """A prompt with outputs, and the ranking task of the same number."""
        chance = self.chance
        self._add(
            prompts,
            id=task,
            project_id=self.project,
            name=f"p{task}",
            text=f"Prompt {task}. " + SENTENCE * chance.randint(1, 12),
            source="api",
            source_user=f"customer{task % 997}",
            use_case=chance.choice(NAMES),
            split="valid" if task % 10 == 0 else "train",
            state="active",
            reason="",
        )
        self._add(
            tasks,
            id=task,
            project_id=self.project,
            kind="ranking",
            prompt_id=task,
            brief="",
            pool=pool,
            state="open",
            priority=0,
            lot=chance.random(),
            turn=chance.random(),
            target_n=target,
            open_slots=target - answered,
            heldout_n=0,
            heldout_open=0,
        )
        worth = [chance.gauss(0, 1) for _ in range(NUM_OUTPUTS)]
        for place, one in enumerate(worth):
            number = NUM_OUTPUTS * (task - 1) + place + 1
            length = max(1, round(6 + 2 * one + chance.gauss(0, 2)))
            made = f"{place}: " + SENTENCE * length
            values = {"id": number, "prompt_id": task, "name": str(place), "text": made}
            self._add(completions, **values, model=f"model-{place}", finished=True)
            self._add(task_completions, task_id=task, position=place, completion_id=number)
        if pool == "gold":
            ranks = _ranks([round(2 * one) for one in worth])
            self._add(gold, task_id=task, answer={"ranks": ranks}, set_by=1, at=self.now - SPAN_S)
        self.worth[task] = worth

    def answer(self, task: int, labelers: list[int]) -> None:
        """One answer of each of the labelers."""
        for labeler in labelers:
            self._answer(task, labeler)

    def _answer(self, task: int, labeler: int) -> None:
        self.num_given += 1
        number, chance = self.num_given, self.chance
        at = self.now - SPAN_S + number * self.step_s
        key = blake2b(f"{task}/{labeler}".encode(), digest_size=12).hexdigest()
        seen = [round(2 * (one + chance.gauss(0, self.noise[labeler]))) for one in self.worth[task]]
        ranks = _ranks(seen)
        overall = [max(1, min(7, 4 + one // 2)) for one in seen]
        active_s = chance.uniform(40, 400)
        self._add(
            assignments,
            id=key,
            task_id=task,
            project_id=self.project,
            labeler_id=labeler,
            kind="ranking",
            cohort="train",
            state="submitted",
            is_extra=False,
            claimed_at=at - active_s - 5,
            lease_until=at + 600,
            ended_at=at,
            active_s=active_s,
            skip_reason="",
            guideline_id=1,
            label_schema_id=1,
        )
        self._add(drafts, assignment_id=key, revision=1, payload={"notes": ""}, saved_at=at)
        self._add(
            submissions,
            id=number,
            assignment_id=key,
            key=f"{labeler}/{key}",
            payload={"ranks": ranks, "ratings": overall},
            payload_sha256="0" * 64,
            is_late=False,
            created_at=at,
        )
        order = chance.sample(range(NUM_OUTPUTS), NUM_OUTPUTS)
        content = {"ranks": ranks, "display_order": order, "checks": [], "notes": ""}
        self._add(rankings, submission_id=number, task_id=task, labeler_id=labeler, **content)
        for place, rating in enumerate(overall):
            flags = {"fails_task": rating < 3, "hallucination": chance.random() < 0.1}
            completion = NUM_OUTPUTS * (task - 1) + place + 1
            values = {"submission_id": number, "completion_id": completion, "notes": ""}
            self._add(ratings, **values, overall=rating, flags=flags)
        if chance.random() < 0.3:
            flags = {"ambiguous": True} if chance.random() < 0.2 else {}
            values = {"submission_id": number, "prompt_id": task, "flags": flags}
            self._add(prompt_labels, **values, use_case=chance.choice(NAMES))
        self.log.append(("claim", key, labeler, at - active_s - 5, number))
        self.log.append(("submit", key, labeler, at, number))

    def flush(self, connection: Connection) -> None:
        """Writes what was made, and notes it in the record as the service does."""
        for table, rows in self._in_order():
            connection.execute(insert(table), rows)
        for action, key, labeler, at, number in self.log:
            object = f"assignment/{key}"
            more = {"submission": number} if action == "submit" else {}
            audit.record(connection, action, object, actor=labeler, now=at, **more)
        self.rows, self.log, self.worth = {}, [], {}

    def _in_order(self) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        for table in prompts.metadata.sorted_tables:  # what others point to comes first
            if table in self.rows:
                yield table, self.rows[table]


def _ranks(worth: list[int]) -> list[int]:
    """The ranks of outputs by worth, equal ones tied."""
    order = sorted(set(worth), reverse=True)
    return [1 + order.index(one) for one in worth]
