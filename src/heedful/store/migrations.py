"""The schema's history: how a database of any earlier heedful becomes one of this heedful.

A new database gets the tables as they stand in ``tables.py`` and the newest number. An older one
gets the steps that it lacks, in order, in one transaction. A step is a list of statements that is
never changed once released; a change of ``tables.py`` without its step fails the tests, which bring
the first schema forward and compare.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, inspect, select, text

from heedful.store.audit import START
from heedful.store.problems import StoreError
from heedful.store.tables import audit_head, metadata, schema_version

# What the databases call differently; a statement names it in braces.
WORDS = {
    "sqlite": {"id": "INTEGER", "number": "INTEGER", "counting": "AUTOINCREMENT", "real": "DOUBLE"},
    "postgresql": {
        "id": "BIGINT",
        "number": "BIGSERIAL",
        "counting": "",
        "real": "DOUBLE PRECISION",
    },
}
_MESSAGES = (
    """CREATE TABLE messages (
        id {number} NOT NULL CONSTRAINT pk_messages PRIMARY KEY {counting},
        assignment_id TEXT NOT NULL
            CONSTRAINT fk_messages_assignment_id REFERENCES assignments (id),
        author_id {id} NOT NULL CONSTRAINT fk_messages_author_id REFERENCES users (id),
        is_answer BOOLEAN NOT NULL,
        text TEXT NOT NULL,
        at {real} NOT NULL,
        seen_at {real}
    )""",
    "CREATE INDEX ix_messages_assignment_id ON messages (assignment_id)",
)
_TICKETS = (
    """CREATE TABLE tickets (
        token_sha256 TEXT NOT NULL CONSTRAINT pk_tickets PRIMARY KEY,
        user_id {id} NOT NULL CONSTRAINT fk_tickets_user_id REFERENCES users (id),
        purpose TEXT NOT NULL
            CONSTRAINT ck_tickets_purpose CHECK (purpose IN ('code', 'password')),
        expires_at {real} NOT NULL
    )""",
    "CREATE INDEX ix_tickets_user_id ON tickets (user_id)",
)
_LARGE = (
    "CREATE INDEX ix_tasks_in_order ON tasks (project_id, kind, id)",
    "CREATE INDEX ix_audit_object_seq ON audit (object, seq)",
    """CREATE TABLE snapshot_exports (
        snapshot_id {id} NOT NULL
            CONSTRAINT fk_snapshot_exports_snapshot_id REFERENCES snapshots (id),
        sha256 TEXT NOT NULL,
        name TEXT NOT NULL,
        made_at {real} NOT NULL,
        CONSTRAINT pk_snapshot_exports PRIMARY KEY (snapshot_id, sha256)
    )""",
)
_WORKING_TIME = ("ALTER TABLE drafts ADD COLUMN active_s {real}",)
# What makes schema n + 2 out of schema n + 1: statements that both databases understand.
STEPS: tuple[tuple[str, ...], ...] = (_MESSAGES, _TICKETS, _LARGE, _WORKING_TIME)
_LOCK = 0x68656564  # "heed": of several processes that start at once, one migrates


def migrate(
    connection: Connection, *, now: float, steps: tuple[tuple[str, ...], ...] = STEPS
) -> int:
    """The number of the schema, after bringing the database to it; StoreError if it is newer."""
    newest = len(steps) + 1
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    if not inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(number=newest, at=now))
        connection.execute(insert(audit_head).values(id=1, seq=0, sha256=START))
        return newest
    found: int = connection.execute(select(func.max(schema_version.c.number))).scalar_one()
    if found > newest:
        raise StoreError(
            f"this database has schema {found} and this heedful knows {newest}: it was used with a "
            "newer heedful; install that one again"
        )
    for number, statements in enumerate(steps[found - 1 :], start=found + 1):
        for statement in statements:
            connection.execute(text(statement.format_map(WORDS[connection.dialect.name])))
        connection.execute(insert(schema_version).values(number=number, at=now))
    return newest
