"""The schema: the first one brought forward, a step of several at once, and a newer one refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import inspect, text

from heedful.store.audit import START
from heedful.store.database import open_database
from heedful.store.migrations import STEPS, migrate
from heedful.store.problems import StoreError
from heedful.store.tables import metadata

FIRST = Path(__file__).parent / "first_schema"


def connect(address):
    url = address if "://" in address else f"sqlite:///{address}"
    return sqlalchemy.create_engine(url)


def make_first(engine):
    """Puts the tables of the first schema into an empty database, with a row that has to stay."""
    script = (FIRST / f"{engine.dialect.name}.sql").read_text(encoding="utf-8")
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(text(statement.replace(":", "\\:")))
        connection.execute(text("INSERT INTO schema_version VALUES (1, 5.0)"))
        connection.execute(text(f"INSERT INTO audit_head VALUES (1, 0, '{START}')"))
        connection.execute(
            text(
                "INSERT INTO users (email, name, role, state, settings, created_at)"
                " VALUES ('old@example.org', 'Old', 'admin', 'active', '{}', 5.0)"
            )
        )


def shape_of(engine):
    """Tables, columns, keys, indexes and checks, in a form that can be compared."""
    found = inspect(engine)
    shape = {}
    for table in sorted(found.get_table_names()):
        columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table)}
        indexes = sorted(
            (i["name"], tuple(i["column_names"]), bool(i["unique"]))
            for i in found.get_indexes(table)
        )
        checks = sorted(
            (str(c["name"]), c["sqltext"].lower()) for c in found.get_check_constraints(table)
        )
        unique = sorted(tuple(u["column_names"]) for u in found.get_unique_constraints(table))
        foreign = sorted(
            (tuple(f["constrained_columns"]), f["referred_table"])
            for f in found.get_foreign_keys(table)
        )
        key = tuple(found.get_pk_constraint(table)["constrained_columns"])
        shape[table] = (columns, key, indexes, unique, foreign, checks)
    return shape


@pytest.fixture(params=["sqlite", "postgresql"])
def two(request, tmp_path):
    """Two empty databases of a kind."""
    if request.param == "sqlite":
        return [str(tmp_path / name) for name in ("old.db", "new.db")]
    make = request.getfixturevalue("new_postgresql")
    return [make(), make()]


def test_the_first_schema_becomes_the_newest_and_keeps_its_rows(two):
    old, new = map(connect, two)
    make_first(old)
    for address in two:
        open_database(address, now=9.0).close()
    assert shape_of(old) == shape_of(new)
    assert set(shape_of(new)) == set(metadata.tables)
    with old.connect() as connection:
        assert connection.execute(text("SELECT name FROM users")).scalar_one() == "Old"
        numbers = connection.execute(text("SELECT number FROM schema_version ORDER BY number"))
        assert list(numbers.scalars()) == list(range(1, len(STEPS) + 2))
    for engine in (old, new):
        engine.dispose()


def test_steps_that_are_lacking_are_taken_in_order_once(empty):
    open_database(empty, now=1.0).close()
    engine = connect(empty)
    steps = (
        *STEPS,
        ("ALTER TABLE users ADD COLUMN motto TEXT", "UPDATE users SET motto = 'none'"),
        ("ALTER TABLE users RENAME COLUMN motto TO words",),
    )
    with engine.begin() as connection:
        assert migrate(connection, now=2.0, steps=steps) == len(STEPS) + 3
        assert migrate(connection, now=3.0, steps=steps) == len(STEPS) + 3
        times = connection.execute(text("SELECT at FROM schema_version ORDER BY number"))
        assert list(times.scalars())[-3:] == [1.0, 2.0, 2.0]
    assert "words" in {column["name"] for column in inspect(engine).get_columns("users")}
    engine.dispose()
    with pytest.raises(StoreError, match=f"has schema {len(STEPS) + 3} .* newer heedful"):
        open_database(empty, now=4.0)
