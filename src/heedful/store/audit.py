"""The record of who did what: appended in the transaction that did it, each row sealed by a hash.

A row's hash covers the row and the hash before it, so a row that is changed or taken out shows.
Rows name things by their ids and hold no text that people wrote: they outlive an erased person.

On PostgreSQL the end of the chain is one locked row. It is locked last, right before the commit, so
that transactions wait for each other for a moment only and never in a circle.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from heedful.store.database import canonical_json
from heedful.store.tables import audit, audit_head

START = "0" * 64
_PENDING = "heedful_audit"


class Entry(NamedTuple):
    """One row of the record."""

    seq: int
    at: float
    actor_id: int | None
    action: str
    object: str
    detail: dict[str, Any]


def record(
    connection: Connection,
    action: str,
    object: str,
    *,
    actor: int | None,
    now: float,
    **detail: Any,
) -> None:
    """Notes an action for the end of this transaction: what was done, to what, by whom."""
    pending = connection.info.setdefault(_PENDING, [])
    row = {"at": now, "actor_id": actor, "action": action, "object": object, "detail": detail}
    pending.append(row)


def seal(connection: Connection) -> None:
    """Appends what was noted to the chain; called once, as the last thing before a commit."""
    pending: list[dict[str, Any]] = connection.info.pop(_PENDING, [])
    if not pending:
        return
    head = connection.execute(select(audit_head).with_for_update()).one()
    seq, last = head.seq, head.sha256
    rows = []
    for values in pending:
        seq += 1
        row = {"seq": seq, **values, "previous_sha256": last}
        last = _hash(row)
        rows.append({**row, "sha256": last})
    connection.execute(insert(audit), rows)
    connection.execute(update(audit_head).values(seq=seq, sha256=last))


def forget(connection: Connection) -> None:
    """Drops what a transaction noted that did not happen."""
    connection.info.pop(_PENDING, None)


def verify(connection: Connection) -> int | None:
    """The number of the first row that is not as it was written, or None if the chain is whole."""
    expected, last = 0, START
    for row in connection.execute(select(audit).order_by(audit.c.seq)).mappings():
        expected += 1
        values = {key: row[key] for key in row if key != "sha256"}
        is_next = row["seq"] == expected and row["previous_sha256"] == last
        if not is_next or row["sha256"] != _hash(values):
            return expected
        last = row["sha256"]
    head = connection.execute(select(audit_head)).one()
    return None if (head.seq, head.sha256) == (expected, last) else expected + 1


def entries(
    connection: Connection,
    *,
    before: int | None = None,
    object: str | None = None,
    limit: int = 100,
) -> list[Entry]:
    """The newest rows first, from before a number on; of one object where it is given."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.seq < before)
    if object is not None:
        query = query.where(audit.c.object == object)
    rows = connection.execute(query)
    return [Entry(r.seq, r.at, r.actor_id, r.action, r.object, r.detail) for r in rows]


def _hash(row: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(row).encode()).hexdigest()
