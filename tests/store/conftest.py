"""A store on each database, and a project with work in it.

PostgreSQL is started once per test process, in a folder of its own, on a socket alone; every test
gets a database of its own in it. It does not run as root: root starts it as the user ``postgres``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy

from heedful.records import Completion, Prompt
from heedful.store import people, pools, projects
from heedful.store.database import Database, open_database

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
# Nothing in a test outlives it, so it does not wait for the disk.
FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
NOW = 1_000_000.0


def _as_postgres(command: list[str]) -> None:
    """Runs a program of PostgreSQL, as a user that it accepts."""
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The folder with the socket of a PostgreSQL server of this test process."""
    if not (POSTGRESQL / "initdb").exists():
        pytest.fail(f"{POSTGRESQL} has no PostgreSQL: apt-get install postgresql-15")
    # Short and outside pytest's folders: a socket's path has 107 characters at most, and the user
    # postgres has to be able to walk to it.
    home = Path(tempfile.mkdtemp(prefix="heedful-pg-"))
    data = home / "data"
    if os.geteuid() == 0:
        os.chown(home, pwd.getpwnam("postgres").pw_uid, -1)
    initdb = [str(POSTGRESQL / "initdb"), "-D", str(data), "-U", "heedful", "--auth=trust"]
    control = [str(POSTGRESQL / "pg_ctl"), "-D", str(data), "-w"]
    try:
        _as_postgres([*initdb, "--encoding=UTF8", "--locale=C", "--no-sync"])
        options = f"-k {home} -c listen_addresses= -c max_connections=80 {FAST}"
        _as_postgres([*control, "-l", str(home / "log"), "-o", options, "start"])
        try:
            yield str(home)
        finally:
            _as_postgres([*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def new_postgresql(postgresql_server: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database and returns its URL."""
    server = sqlalchemy.create_engine(
        _url(postgresql_server, "postgres"), isolation_level="AUTOCOMMIT"
    )

    def make() -> str:
        name = f"t{uuid.uuid4().hex}"
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return _url(postgresql_server, name)

    yield make
    server.dispose()


def _url(server: str, name: str) -> str:
    return f"postgresql+psycopg://heedful@/{name}?host={server}"


# A new database for each test would be thousands of files: the rows go, and the numbers begin anew.
RESET = """
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica;  -- keys are not checked in between
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('schema_version', 'audit_head')
    LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'
    LOOP PERFORM setval(name::regclass, 1, false); END LOOP;
    UPDATE audit_head SET seq = 0, sha256 = repeat('0', 64);
END $$
"""


@pytest.fixture(scope="session")
def _postgresql_store(new_postgresql: Callable[[], str]) -> str:
    url = new_postgresql()
    open_database(url, now=NOW).close()
    return url


@pytest.fixture
def postgresql_store(_postgresql_store: str) -> str:
    """The URL of a store on PostgreSQL with nothing in it."""
    engine = sqlalchemy.create_engine(_postgresql_store)
    with engine.begin() as connection:
        connection.exec_driver_sql(RESET)
    engine.dispose()
    return _postgresql_store


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables of a store, to be copied."""
    path = tmp_path_factory.mktemp("store") / "labels.db"
    open_database(path, now=NOW).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database is that has no table yet: a SQLite file, and one on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "labels.db")
    return request.getfixturevalue("new_postgresql")()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is that has its tables and nothing in them."""
    if request.param == "sqlite":
        made = request.getfixturevalue("sqlite_store")
        return str(shutil.copy(made, tmp_path / "labels.db"))
    return request.getfixturevalue("postgresql_store")


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
