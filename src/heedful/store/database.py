"""How the store is opened, and what a database can do: ``write`` and ``read``.

    database.write(lambda c: tasks.submit(c, ...))   one transaction; returns when it is on disk
    with database.read() as c: ...                   one consistent view, nothing can be changed

A query function takes the connection that these two hand out. Work given to ``write`` may run again
after a conflict between two transactions, so it only touches the database.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Table, insert, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError

from heedful.errors import ConfigError

T = TypeVar("T")
DEFAULT_FILE = "heedful.db"


class Database(Protocol):
    """An open store."""

    def write(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, after its changes are safe on disk; all of them or none."""
        ...

    def read(self) -> AbstractContextManager[Connection]:
        """A connection that sees the store as it is at this moment, and cannot change it."""
        ...

    def backup(self, target: Path) -> None:
        """Writes a copy of the whole store to a file, while people go on working."""
        ...

    def close(self) -> None:
        """Ends what is under way and lets the database go."""
        ...


def open_database(address: str | Path, *, now: float) -> Database:
    """The store at a path or a URL (``postgresql+psycopg://...``), brought to the newest schema.

    A SQLite file is made where there is none. StoreError says why a database cannot be used.
    """
    text = str(address)
    if "://" not in text:
        from heedful.store.sqlite import SQLiteDatabase

        return SQLiteDatabase(Path(text), now=now)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(f"{text!r} is not a database: give a path or a URL") from error
    if url.get_backend_name() == "sqlite" and url.database:
        from heedful.store.sqlite import SQLiteDatabase

        return SQLiteDatabase(Path(url.database), now=now)
    if url.get_backend_name() == "postgresql":
        from heedful.store.postgresql import PostgreSQLDatabase

        return PostgreSQLDatabase(url.set(drivername="postgresql+psycopg"), now=now)
    raise ConfigError(
        f"heedful keeps its data in SQLite or PostgreSQL, not in {url.get_backend_name()}: give a "
        "path such as labels.db, or postgresql+psycopg://user@host/name"
    )


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces; ValueError for numbers that are none.

    Characters stand as they are, unless one is half a character (a text cut in a wrong place): no
    file can hold that, so then all that are not ASCII are escaped.
    """
    form: dict[str, Any] = {"sort_keys": True, "separators": (",", ":"), "allow_nan": False}
    text = json.dumps(value, ensure_ascii=False, **form)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, **form)
    return text


def storable(text: str) -> str:
    """The text without what a database refuses: NUL goes, half a character becomes "?"."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def insert_row(connection: Connection, table: Table, **values: Any) -> int:
    """The number of a new row of a table whose rows have numbers."""
    query = insert(table).values(values).returning(table.c.id)
    return int(connection.execute(query).scalar_one())


def insert_new(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Whether the row was new; a row with the same key, perhaps from a moment ago, stays."""
    try:
        with connection.begin_nested():
            connection.execute(insert(table).values(values))
    except IntegrityError:
        return False
    return True
