"""The record: rows in order, sealed, and what happens when somebody changes one."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import delete, update

from heedful.store import audit
from heedful.store.tables import audit as table
from heedful.store.tables import audit_head


def add(database, number):
    name = f"task/{number}"
    database.write(lambda c: audit.record(c, "claim", name, actor=7, now=2.5, n=number))


def check(database):
    with database.read() as connection:
        return audit.verify(connection)


def test_rows_are_numbered_sealed_and_found_by_object(database):
    for number in range(3):
        add(database, number)
    with database.read() as connection:
        found = audit.entries(connection)
        assert [entry.seq for entry in found] == [3, 2, 1]
        assert found[0] == audit.Entry(3, 2.5, 7, "claim", "task/2", {"n": 2})
        assert [entry.seq for entry in audit.entries(connection, object="task/1")] == [2]
        assert [entry.seq for entry in audit.entries(connection, before=3, limit=1)] == [2]
        row = connection.execute(table.select().where(table.c.seq == 1)).one()
    # The seal, written out by hand.
    text = (
        '{"action":"claim","actor_id":7,"at":2.5,"detail":{"n":0},"object":"task/0",'
        f'"previous_sha256":"{"0" * 64}","seq":1}}'
    )
    assert row.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert check(database) is None


def test_nothing_is_recorded_of_what_did_not_happen(database):
    def fail(connection):
        audit.record(connection, "claim", "task/1", actor=7, now=2.5)
        raise ValueError

    with pytest.raises(ValueError):
        database.write(fail)
    add(database, 2)
    with database.read() as connection:
        assert [entry.object for entry in audit.entries(connection)] == ["task/2"]
    assert check(database) is None


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (update(table).where(table.c.seq == 2).values(actor_id=8), 2),
        (update(table).where(table.c.seq == 3).values(sha256="0" * 64), 3),
        (delete(table).where(table.c.seq == 1), 1),
        (delete(table).where(table.c.seq == 4), 4),
        (update(audit_head).values(seq=9), 5),
    ],
)
def test_a_row_that_was_changed_or_taken_out_shows(database, change, broken):
    for number in range(4):
        add(database, number)
    assert check(database) is None
    database.write(lambda c: c.execute(change))
    assert check(database) == broken
