"""People: accounts, invitations, sessions, who works in which project. Secrets come in hashed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import Connection, Table, delete, insert, select, update

from heedful.records import Cohort
from heedful.store import audit
from heedful.store.database import insert_new, insert_row, storable
from heedful.store.problems import Conflict, NotFound
from heedful.store.tables import (
    guideline_reads,
    invitations,
    memberships,
    screening_items,
    sessions,
    surveys,
    tickets,
    users,
)

Role = Literal["admin", "researcher", "reviewer", "labeler"]
MemberState = Literal["screening", "screened", "active", "paused", "rejected"]


@dataclass(frozen=True, slots=True)
class User:
    """An account. ``password_hash`` and ``totp_secret`` are for ``labeling.auth`` alone."""

    id: int
    email: str
    name: str
    role: Role
    state: Literal["active", "disabled", "deleted"]
    password_hash: str | None
    totp_secret: str | None
    settings: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class Membership:
    """A labeler's place in a project."""

    project_id: int
    user_id: int
    cohort: Cohort
    state: MemberState
    note: str
    since: float


@dataclass(frozen=True, slots=True)
class Invitation:
    """A single-use way in, bound to an address, a role and perhaps a project."""

    id: int
    email: str
    role: Role
    project_id: int | None
    cohort: Cohort
    created_by: int
    created_at: float
    expires_at: float
    accepted_at: float | None
    revoked_at: float | None


def _columns(table: Table, kind: type) -> list[Any]:
    return [table.c[field.name] for field in fields(kind)]


def normal_email(email: str) -> str:
    """The address as it is compared: without spaces around it, in lower case."""
    return storable(email).strip().lower()


def add_user(
    connection: Connection,
    email: str,
    name: str,
    role: Role,
    password_hash: str | None,
    *,
    actor: int | None,
    now: float,
) -> User:
    """The new account; Conflict where the address has one."""
    values = {
        "email": normal_email(email),
        "name": storable(name),
        "role": role,
        "password_hash": password_hash,
        "state": "active",
        "settings": {},
        "created_at": now,
    }
    is_new = insert_new(connection, users, values)
    account = user_by_email(connection, email)
    if not is_new or account is None:
        raise Conflict(f"{normal_email(email)} has an account already")
    audit.record(connection, "add_user", f"user/{account.id}", actor=actor, now=now, role=role)
    return account


def user(connection: Connection, user_id: int) -> User:
    """One account by its number."""
    row = connection.execute(select(*_columns(users, User)).where(users.c.id == user_id)).first()
    if row is None:
        raise NotFound(f"there is no user {user_id}")
    return User(**row._mapping)


def user_by_email(connection: Connection, email: str) -> User | None:
    """The account of an address, or None."""
    query = select(*_columns(users, User)).where(users.c.email == normal_email(email))
    row = connection.execute(query).first()
    return None if row is None else User(**row._mapping)


def all_users(connection: Connection, *, role: Role | None = None) -> list[User]:
    """Every account that was not erased, oldest first."""
    query = select(*_columns(users, User)).where(users.c.state != "deleted").order_by(users.c.id)
    if role is not None:
        query = query.where(users.c.role == role)
    return [User(**row._mapping) for row in connection.execute(query)]


def change_user(
    connection: Connection, user_id: int, *, actor: int | None, now: float, **values: Any
) -> None:
    """Sets name, role, state, password_hash, totp_secret or settings of an account.

    The record names the fields, not their values. Ending sessions is ``sessions.end_all``.
    """
    known = {"name", "role", "state", "password_hash", "totp_secret", "settings"}
    if not values or values.keys() - known:
        raise ValueError(f"change_user sets {sorted(known)}, not {sorted(values)}")
    done = connection.execute(update(users).where(users.c.id == user_id).values(values))
    if done.rowcount == 0:
        raise NotFound(f"there is no user {user_id}")
    shown = {key: values[key] for key in ("role", "state") if key in values}
    audit.record(
        connection,
        "change_user",
        f"user/{user_id}",
        actor=actor,
        now=now,
        fields=sorted(values),
        **shown,
    )


def set_standing(
    connection: Connection,
    user_id: int,
    *,
    role: Role,
    state: Literal["active", "disabled"],
    actor: int,
    now: float,
) -> None:
    """Gives an account a role and opens or closes it, and ends its sessions.

    Conflict where no active admin would be left: nobody could undo it.
    """
    # In one order, under a lock: two admins who demote each other wait for one another.
    admins = select(users.c.id).where(users.c.role == "admin", users.c.state == "active")
    held = connection.execute(admins.order_by(users.c.id).with_for_update()).scalars().all()
    found = user(connection, user_id)
    if found.state == "deleted":
        raise NotFound(f"there is no user {user_id}")
    if set(held) == {user_id} and (role, state) != ("admin", "active"):
        raise Conflict("this is the only admin: make somebody else an admin first")
    change_user(connection, user_id, role=role, state=state, actor=actor, now=now)
    for table in (sessions, tickets):
        connection.execute(delete(table).where(table.c.user_id == user_id))


# Invitations


def invite(
    connection: Connection,
    email: str,
    role: Role,
    *,
    token_sha256: str,
    project_id: int | None = None,
    cohort: Cohort = "train",
    expires_at: float,
    actor: int,
    now: float,
) -> Invitation:
    """The new invitation; the token itself is never kept."""
    values = {
        "token_sha256": token_sha256,
        "email": normal_email(email),
        "role": role,
        "project_id": project_id,
        "cohort": cohort,
        "created_by": actor,
        "created_at": now,
        "expires_at": expires_at,
    }
    number = insert_row(connection, invitations, **values)
    audit.record(connection, "invite", f"invitation/{number}", actor=actor, now=now, role=role)
    query = select(*_columns(invitations, Invitation)).where(invitations.c.id == number)
    return Invitation(**connection.execute(query).one()._mapping)


def invitation(connection: Connection, token_sha256: str, *, now: float) -> Invitation | None:
    """The invitation of a token that can still be accepted, or None."""
    query = select(*_columns(invitations, Invitation)).where(
        invitations.c.token_sha256 == token_sha256,
        invitations.c.accepted_at.is_(None),
        invitations.c.revoked_at.is_(None),
        invitations.c.expires_at > now,
    )
    row = connection.execute(query).first()
    return None if row is None else Invitation(**row._mapping)


def open_invitations(connection: Connection, *, now: float) -> list[Invitation]:
    """The invitations that can still be accepted, newest first."""
    query = (
        select(*_columns(invitations, Invitation))
        .where(
            invitations.c.accepted_at.is_(None),
            invitations.c.revoked_at.is_(None),
            invitations.c.expires_at > now,
        )
        .order_by(invitations.c.id.desc())
    )
    return [Invitation(**row._mapping) for row in connection.execute(query)]


def accept_invitation(
    connection: Connection, token_sha256: str, *, name: str, password_hash: str, now: float
) -> User:
    """The account that an invitation makes, in its project. It works once.

    An address that has an account joins the project with it, name and password unchanged.
    """
    found = invitation(connection, token_sha256, now=now)
    if found is None:
        raise NotFound("this invitation was used, withdrawn, or is too old: ask for a new one")
    taken = connection.execute(
        update(invitations)
        .where(invitations.c.id == found.id, invitations.c.accepted_at.is_(None))
        .values(accepted_at=now)
    )
    if taken.rowcount == 0:  # accepted in another tab between the two statements
        raise NotFound("this invitation was used: ask for a new one")
    account = user_by_email(connection, found.email)
    if account is None:
        account = add_user(
            connection, found.email, name, found.role, password_hash, actor=None, now=now
        )
    if (
        found.project_id is not None
        and membership(connection, found.project_id, account.id) is None
    ):
        join(connection, found.project_id, account.id, found.cohort, actor=account.id, now=now)
    connection.execute(
        update(invitations).where(invitations.c.id == found.id).values(accepted_by=account.id)
    )
    object = f"invitation/{found.id}"
    audit.record(connection, "accept_invitation", object, actor=account.id, now=now)
    return account


def revoke_invitation(
    connection: Connection, invitation_id: int, *, actor: int, now: float
) -> None:
    """Takes an invitation back."""
    connection.execute(
        update(invitations)
        .where(invitations.c.id == invitation_id, invitations.c.accepted_at.is_(None))
        .values(revoked_at=now)
    )
    audit.record(
        connection, "revoke_invitation", f"invitation/{invitation_id}", actor=actor, now=now
    )


# Memberships


def join(
    connection: Connection,
    project_id: int,
    user_id: int,
    cohort: Cohort = "train",
    *,
    state: MemberState | None = None,
    actor: int | None,
    now: float,
) -> Membership:
    """A labeler's new place in a project.

    By default labelers of the training cohort begin with the screening where the project has one;
    the held-out cohort is not screened (paper, B.1).
    """
    if state is None:
        has_items = connection.execute(
            select(screening_items.c.id).where(screening_items.c.project_id == project_id).limit(1)
        ).first()
        state = "screening" if has_items and cohort == "train" else "active"
    values = {
        "project_id": project_id,
        "user_id": user_id,
        "cohort": cohort,
        "state": state,
        "note": "",
        "since": now,
    }
    if not insert_new(connection, memberships, values):
        raise Conflict(f"user {user_id} is in project {project_id} already")
    audit.record(
        connection,
        "join",
        f"project/{project_id}/user/{user_id}",
        actor=actor,
        now=now,
        cohort=cohort,
        state=state,
    )
    return Membership(**values)


def membership(connection: Connection, project_id: int, user_id: int) -> Membership | None:
    """A labeler's place in a project, or None."""
    query = select(memberships).where(
        memberships.c.project_id == project_id, memberships.c.user_id == user_id
    )
    row = connection.execute(query).first()
    return None if row is None else Membership(**row._mapping)


def members(connection: Connection, project_id: int) -> list[Membership]:
    """Everybody in a project, in order of user number."""
    query = select(memberships).where(memberships.c.project_id == project_id)
    rows = connection.execute(query.order_by(memberships.c.user_id))
    return [Membership(**row._mapping) for row in rows]


def memberships_of(connection: Connection, user_id: int) -> list[Membership]:
    """All places of one person."""
    query = select(memberships).where(memberships.c.user_id == user_id)
    rows = connection.execute(query.order_by(memberships.c.project_id))
    return [Membership(**row._mapping) for row in rows]


def change_membership(
    connection: Connection,
    project_id: int,
    user_id: int,
    *,
    state: MemberState | None = None,
    cohort: Cohort | None = None,
    note: str | None = None,
    actor: int,
    now: float,
) -> None:
    """Moves a labeler on: to work, to a pause, to the other cohort (for answers from now on)."""
    given = {"state": state, "cohort": cohort, "note": note}
    values = {key: value for key, value in given.items() if value is not None}
    done = connection.execute(
        update(memberships)
        .where(memberships.c.project_id == project_id, memberships.c.user_id == user_id)
        .values(**values, since=now)
    )
    if done.rowcount == 0:
        raise NotFound(f"user {user_id} is not in project {project_id}")
    shown = {key: values[key] for key in ("state", "cohort") if key in values}
    audit.record(
        connection,
        "change_membership",
        f"project/{project_id}/user/{user_id}",
        actor=actor,
        now=now,
        **shown,
    )


def read_guidelines(connection: Connection, user_id: int, guideline_id: int, *, now: float) -> None:
    """Notes that a person has read a version of the guidelines."""
    values = {"guideline_id": guideline_id, "user_id": user_id, "at": now}
    insert_new(connection, guideline_reads, values)


def save_survey(
    connection: Connection, project_id: int, user_id: int, answers: dict[str, Any], *, now: float
) -> None:
    """Keeps a labeler's survey (paper, B.3) in place of an earlier one."""
    place = (surveys.c.project_id == project_id) & (surveys.c.user_id == user_id)
    connection.execute(delete(surveys).where(place))
    values = {"project_id": project_id, "user_id": user_id, "answers": answers, "at": now}
    connection.execute(insert(surveys).values(values))
    audit.record(connection, "survey", f"project/{project_id}", actor=user_id, now=now)


def own_survey(connection: Connection, project_id: int, user_id: int) -> dict[str, Any]:
    """What a labeler has said in the survey of a project; {} for nothing yet."""
    query = select(surveys.c.answers).where(
        surveys.c.project_id == project_id, surveys.c.user_id == user_id
    )
    return connection.execute(query).scalar() or {}


def survey_answers(connection: Connection, project_id: int) -> list[dict[str, Any]]:
    """All surveys of a project, without names, in order of their content's time."""
    query = select(surveys.c.answers).where(surveys.c.project_id == project_id)
    return [row.answers for row in connection.execute(query.order_by(surveys.c.at))]
