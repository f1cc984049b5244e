"""PostgreSQL: any number of processes; what must not happen twice is guarded by row locks.

Transactions run at READ COMMITTED, so that a statement after a lock sees what the holder before has
committed. Deadlocks and serialization failures undo the whole transaction; it is then run again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from heedful.errors import MissingExtraError
from heedful.store.audit import forget, seal
from heedful.store.database import canonical_json
from heedful.store.migrations import migrate
from heedful.store.problems import StoreError

T = TypeVar("T")
NUM_ATTEMPTS = 5
TRY_AGAIN = ("40001", "40P01")  # serialization failure, deadlock
NUM_CONNECTIONS = 16
# Statements here are short: to compile one takes a second where it runs for two milliseconds, and
# many people at once use the processors better than several workers of one statement. As statements
# and not as the address's ``options``, which are the user's and which poolers refuse; what the user
# has set there stays.
SETTINGS = """
SELECT set_config(name, CASE name WHEN 'jit' THEN 'off' ELSE '0' END, false) FROM pg_settings
WHERE name IN ('jit', 'max_parallel_workers_per_gather') AND source <> 'client'
"""


class PostgreSQLDatabase:
    """A store on a PostgreSQL server. See ``heedful.store.database.Database``."""

    def __init__(self, url: URL, *, now: float):
        self.url = url
        try:
            self._engine = create_engine(
                url,
                json_serializer=canonical_json,
                pool_size=NUM_CONNECTIONS,
                max_overflow=NUM_CONNECTIONS,
                pool_pre_ping=True,
            )
        except ImportError as error:
            raise MissingExtraError(
                "PostgreSQL needs psycopg: pip install 'heedful[labeling]'"
            ) from error
        # First of all: SQLAlchemy itself cannot read what a server without an encoding answers.
        event.listen(self._engine, "connect", self._prepare, insert=True)
        try:
            with self._engine.begin() as connection:
                migrate(connection, now=now)
        except OperationalError as error:
            self._engine.dispose()
            raise StoreError(
                f"{url.render_as_string()} does not answer: {error.orig}. Is the server running, "
                "and do name, user and password fit?"
            ) from error
        except BaseException:
            self._engine.dispose()
            raise

    def _prepare(self, connection: Any, _record: Any) -> None:
        """Refuses a database that cannot hold every text, and sets what the service's statements
        need; ``connection`` is psycopg's."""
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise StoreError(
                f"the database of {self.url.render_as_string()} is in {encoding} and texts of "
                "people need UTF8: make another one with createdb --encoding=UTF8 "
                f"--template=template0 {self.url.database or 'NAME'}"
            )
        connection.execute(SETTINGS)
        connection.commit()  # or the first rollback takes the settings back

    def write(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, after its changes are on disk; all of them or none."""
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                return self._once(work)
            except DBAPIError as error:
                again = getattr(error.orig, "sqlstate", None) in TRY_AGAIN
                if not again or attempt == NUM_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _once(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            try:
                with connection.begin():
                    value = work(connection)
                    seal(connection)
            finally:
                forget(connection)
        return value

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees the store as it is at this moment, and cannot change it."""
        with self._engine.connect() as connection:
            reader = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            with reader.begin():
                yield reader

    def backup(self, target: Path) -> None:
        """Writes a dump for ``pg_restore`` to a new file, while people go on working."""
        if target.exists():
            raise StoreError(f"{target} exists: give the backup another name")
        address = self.url.set(drivername="postgresql", password=None)
        environment = dict(os.environ)
        if self.url.password:
            environment["PGPASSWORD"] = str(self.url.password)
        command = ["pg_dump", "--format=custom", f"--file={target}", address.render_as_string()]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise StoreError("pg_dump is not installed: install PostgreSQL's client") from error
        if done.returncode:
            raise StoreError(f"pg_dump failed: {done.stderr.strip()}")

    def close(self) -> None:
        """Lets the server's connections go."""
        self._engine.dispose()
