"""A store on each database, and a project with work in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heedful.records import Completion, Prompt
from heedful.store import people, pools, projects
from heedful.store.database import Database, open_database

NOW = 1_000_000.0


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database is that has no table yet: a SQLite file, and one on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "labels.db")
    return request.getfixturevalue("new_postgresql")()


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    """An open store with nothing in it."""
    opened = open_database(address, now=NOW)
    yield opened
    opened.close()


@pytest.fixture
def house(database: Database) -> Any:
    """A store with an admin, three labelers of the training cohort and one held out, and tasks.

    Prompts p0 to p3 with completions a to d each; a ranking task for each, a demonstration task for
    p0; no overlap, no gold, leases of 100 seconds, undo within 10.
    """
    return database.write(furnish).with_database(database)


@pytest.fixture(scope="session")
def furnish_store() -> Callable[[Database], Any]:
    """Makes in an open store what ``house`` has."""
    return lambda database: database.write(furnish).with_database(database)


class House(SimpleNamespace):
    """What ``furnish`` has made, and shorthands for calls in transactions of their own."""

    def with_database(self, database: Database) -> House:
        self.database = database
        return self

    def write(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return self.database.write(lambda c: function(c, *given, **named))

    def read(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        with self.database.read() as connection:
            return function(connection, *given, **named)


PLAIN = projects.Settings(
    overlap_fraction=0.0,
    gold_fraction=0.0,
    drift_fraction=0.0,
    lease_s=100.0,
    undo_s=10.0,
)


def furnish(connection: Any, num_prompts: int = 4) -> House:
    admin = people.add_user(
        connection, "admin@example.org", "Ada", "admin", None, actor=None, now=NOW
    ).id
    project = projects.create(
        connection, "first", seed="seed", settings=PLAIN, guideline="Be kind.", actor=admin, now=NOW
    )
    labelers = []
    for number in range(4):
        email = f"labeler{number}@example.org"
        account = people.add_user(
            connection, email, f"L{number}", "labeler", None, actor=admin, now=NOW
        )
        cohort = "heldout" if number == 3 else "train"
        people.join(connection, project.id, account.id, cohort, actor=admin, now=NOW)
        labelers.append(account.id)
    given = [
        Prompt(id=f"p{number}", text=f"Prompt {number}", user=f"customer{number % 2}")
        for number in range(num_prompts)
    ]
    numbers = projects.add_prompts(connection, project.id, given, actor=admin, now=NOW)
    tasks = {}
    for name, number in numbers.items():
        outputs = [Completion(f"{name}{x}", f"Output {x} of {name}", f"model-{x}") for x in "abcd"]
        made = projects.add_completions(connection, number, outputs)
        tasks[name] = pools.add_ranking_task(connection, project, number, made)
    demonstration = pools.add_demonstration_task(connection, project, numbers["p0"])
    return House(
        admin=admin,
        project=project,
        labelers=labelers,
        prompts=numbers,
        tasks=tasks,
        demonstration=demonstration,
        now=NOW,
    )
