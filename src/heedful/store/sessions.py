"""Log-ins: sessions on the server, tickets, failures counted across restarts, one-time codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from heedful.store import audit
from heedful.store.database import insert_new, storable
from heedful.store.tables import attempts, recovery_codes, sessions, tickets, users

# What a ticket lets its bearer do: give the code after the password, set a forgotten password.
Purpose = Literal["code", "password"]
# Refused log-ins of an hour that the record has one by one: of addresses without an account all
# together, and of each account. Strangers who fill the one leave the others their places.
LISTED, LISTED_OF_ACCOUNT = 100, 10
TOUCH_S = 60.0  # a page view writes only when the last one is this old


@dataclass(frozen=True, slots=True)
class Session:
    """One log-in of one person on one device."""

    token_sha256: str
    user_id: int
    csrf_token: str
    created_at: float
    seen_at: float
    expires_at: float
    agent: str


def start(
    connection: Connection,
    user_id: int,
    *,
    token_sha256: str,
    csrf_token: str,
    expires_at: float,
    agent: str = "",
    now: float,
) -> Session:
    """The new session; the token itself is never kept."""
    session = Session(
        token_sha256, user_id, csrf_token, now, now, expires_at, storable(agent)[:200]
    )
    values = {name: getattr(session, name) for name in Session.__slots__}
    connection.execute(insert(sessions).values(values))
    audit.record(connection, "log_in", f"user/{user_id}", actor=user_id, now=now)
    return session


def find(connection: Connection, token_sha256: str, *, idle_s: float, now: float) -> Session | None:
    """The live session of a token: neither past its end nor unused for ``idle_s``."""
    query = select(sessions).where(
        sessions.c.token_sha256 == token_sha256,
        sessions.c.expires_at > now,
        sessions.c.seen_at > now - idle_s,
    )
    row = connection.execute(query).first()
    return None if row is None else Session(**row._mapping)


def touch(connection: Connection, token_sha256: str, *, now: float) -> None:
    """Notes that a session is in use; call it when ``seen_at`` is older than TOUCH_S."""
    connection.execute(
        update(sessions).where(sessions.c.token_sha256 == token_sha256).values(seen_at=now)
    )


def of_user(connection: Connection, user_id: int, *, now: float) -> list[Session]:
    """A person's sessions that have not ended, newest first."""
    query = select(sessions).where(sessions.c.user_id == user_id, sessions.c.expires_at > now)
    rows = connection.execute(query.order_by(sessions.c.created_at.desc()))
    return [Session(**row._mapping) for row in rows]


def end(connection: Connection, token_sha256: str, *, actor: int, now: float) -> None:
    """Ends one session."""
    connection.execute(delete(sessions).where(sessions.c.token_sha256 == token_sha256))
    audit.record(connection, "log_out", f"user/{actor}", actor=actor, now=now)


def end_all(
    connection: Connection, user_id: int, *, but: str | None = None, actor: int | None, now: float
) -> int:
    """How many sessions of a person were ended: all, or all but one."""
    query = delete(sessions).where(sessions.c.user_id == user_id)
    if but is not None:
        query = query.where(sessions.c.token_sha256 != but)
    num_ended = connection.execute(query).rowcount
    audit.record(
        connection, "end_sessions", f"user/{user_id}", actor=actor, now=now, num_ended=num_ended
    )
    return num_ended


def drop_expired(connection: Connection, *, now: float) -> int:
    """How many sessions and tickets past their end were removed; called now and then."""
    old = (delete(table).where(table.c.expires_at <= now) for table in (sessions, tickets))
    return sum(connection.execute(query).rowcount for query in old)


# Tickets: short-lived and single-use, for who is known but not logged in


def issue_ticket(
    connection: Connection,
    user_id: int,
    purpose: Purpose,
    *,
    token_sha256: str,
    expires_at: float,
    actor: int | None,
    now: float,
) -> None:
    """Puts a new ticket in the place of the person's others of this purpose."""
    others = (tickets.c.user_id == user_id) & (tickets.c.purpose == purpose)
    connection.execute(delete(tickets).where(others))
    values = {
        "token_sha256": token_sha256,
        "user_id": user_id,
        "purpose": purpose,
        "expires_at": expires_at,
    }
    connection.execute(insert(tickets).values(values))
    object = f"user/{user_id}"
    audit.record(connection, "issue_ticket", object, actor=actor, now=now, purpose=purpose)


def ticket_holder(
    connection: Connection, token_sha256: str, purpose: Purpose, *, now: float
) -> int | None:
    """The number of the person whose ticket this is, or None if it is used, old or none."""
    query = select(tickets.c.user_id).where(
        tickets.c.token_sha256 == token_sha256,
        tickets.c.purpose == purpose,
        tickets.c.expires_at > now,
    )
    return connection.execute(query).scalar()


def use_ticket(connection: Connection, token_sha256: str) -> bool:
    """Whether the ticket was there to be used; it is used up now."""
    query = delete(tickets).where(tickets.c.token_sha256 == token_sha256)
    return connection.execute(query).rowcount == 1


# Failures, for delays that grow: kept here so that a restart does not reset them


def failures(connection: Connection, scope: str, subject: str) -> tuple[int, float]:
    """(failures in a row, time of the last) of an account or an address; (0, 0.0) without any."""
    query = select(attempts.c.failures, attempts.c.last_at).where(
        attempts.c.scope == scope, attempts.c.subject == storable(subject)
    )
    row = connection.execute(query).first()
    return (0, 0.0) if row is None else (row.failures, row.last_at)


def note_failure(connection: Connection, scope: str, subject: str, *, now: float) -> int:
    """The failures in a row, this one included."""
    place = (attempts.c.scope == scope) & (attempts.c.subject == storable(subject))
    more = update(attempts).where(place).values(failures=attempts.c.failures + 1, last_at=now)
    first = {"scope": scope, "subject": storable(subject), "failures": 1, "last_at": now}
    if connection.execute(more).rowcount == 0 and not insert_new(connection, attempts, first):
        connection.execute(more)
    return failures(connection, scope, subject)[0]


def note_refusal(
    connection: Connection, user_id: int | None, why: str, network: str, *, now: float
) -> None:
    """Enters a refused log-in into the record: of which account (None: there is no such), what was
    wrong, from which network; never what was typed.

    Of one account and hour the first LISTED_OF_ACCOUNT are entered (LISTED of all addresses that
    have none), then one at twice, four times ... as many, with the count: however many there are,
    they cannot bury the rest of the record.
    """
    object, subject, listed = f"user/{user_id}", str(user_id), LISTED_OF_ACCOUNT
    if user_id is None:
        object, subject, listed = "log-in", "log-in", LISTED
    num_before, last_at = failures(connection, "record", subject)
    if last_at // 3600 != now // 3600:
        clear_failures(connection, "record", subject)
        num_before = 0
    number = num_before + 1
    note_failure(connection, "record", subject, now=now)
    over, rest = divmod(number, listed)
    if number <= listed or (rest == 0 and over & (over - 1) == 0):
        detail = {"why": why, "network": network, "in_this_hour": number}
        audit.record(connection, "refuse_log_in", object, actor=None, now=now, **detail)


def clear_failures(connection: Connection, scope: str, subject: str) -> None:
    """Forgets failures after a success."""
    connection.execute(
        delete(attempts).where(attempts.c.scope == scope, attempts.c.subject == storable(subject))
    )


# One-time codes


def use_totp_step(connection: Connection, user_id: int, step: int) -> bool:
    """Whether a code's time step is newer than the last that was used; it is used up now."""
    done = connection.execute(
        update(users)
        .where(
            users.c.id == user_id,
            users.c.totp_last_step.is_(None) | (users.c.totp_last_step < step),
        )
        .values(totp_last_step=step)
    )
    return done.rowcount == 1


def set_recovery_codes(
    connection: Connection, user_id: int, codes_sha256: list[str], *, now: float
) -> None:
    """Puts new recovery codes in the place of a person's old ones."""
    connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
    rows = [{"user_id": user_id, "code_sha256": code} for code in codes_sha256]
    if rows:
        connection.execute(insert(recovery_codes), rows)
    audit.record(connection, "recovery_codes", f"user/{user_id}", actor=user_id, now=now)


def num_recovery_codes(connection: Connection, user_id: int) -> int:
    """How many recovery codes a person has left."""
    query = select(func.count()).where(recovery_codes.c.user_id == user_id)
    return connection.execute(query).scalar_one()


def use_recovery_code(
    connection: Connection, user_id: int, code_sha256: str, *, now: float
) -> bool:
    """Whether this was an unused recovery code; it is used up now."""
    done = connection.execute(
        delete(recovery_codes).where(
            recovery_codes.c.user_id == user_id, recovery_codes.c.code_sha256 == code_sha256
        )
    )
    if done.rowcount:
        audit.record(connection, "use_recovery_code", f"user/{user_id}", actor=user_id, now=now)
    return done.rowcount == 1
