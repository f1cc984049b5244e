"""Accounts, for admins: roles, closing and opening, links for a new password, lost phones."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.errors import HeedfulError
from heedful.labeling import second_factor
from heedful.labeling.access import token_hash
from heedful.labeling.pages import render
from heedful.labeling.service import Refused, now_of, read, service_of, texts_of, user_of, write
from heedful.store import people, sessions

ROLES = ("labeler", "reviewer", "researcher", "admin")
STATES = ("active", "disabled")
SHOWN = 100
PASSWORD_LINK_S = 24 * 3600.0


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    own = "/admin/people"
    app.add_api_route(own, show, methods=["GET"])
    app.add_api_route(f"{own}/{{user_id}}", change, methods=["POST"])
    app.add_api_route(f"{own}/{{user_id}}/password", link_password, methods=["POST"])
    app.add_api_route(f"{own}/{{user_id}}/second-factor", drop_second_factor, methods=["POST"])
    app.add_api_route(f"{own}/{{user_id}}/sessions", end_sessions, methods=["POST"])


def show(request: Request, find: str = "") -> Response:
    """Who has an account, all or those whose name or address holds a text, and what can be done."""
    return _page(request, find=find)


def _page(
    request: Request,
    *,
    find: str = "",
    problem: str = "",
    said: Sequence[str] = (),
    status: int = 200,
) -> Response:
    wanted = find.strip().lower()
    found = [
        one
        for one in read(request, people.all_users)
        if wanted in one.name.lower() or wanted in one.email
    ]
    return render(
        request,
        "people.html",
        status=status,
        people=found[:SHOWN],
        num_more=len(found[SHOWN:]),
        find=find,
        roles=ROLES,
        needed=service_of(request).second_factor,
        problem=problem,
        said=said,
    )


def _account(request: Request, user_id: int) -> people.User:
    """An account that was not erased."""
    found = read(request, people.user, user_id)
    if found.state == "deleted":
        raise Refused(404, "There is no such account.")
    return found


def change(request: Request, user_id: int) -> Response:
    """Gives an account another role, closes it or opens it; its sessions end."""
    fields, now = texts_of(request), now_of(request)
    account, actor = _account(request, user_id), user_of(request)
    role, state = fields.get("role", ""), fields.get("state", "")
    try:
        if role not in ROLES or state not in STATES:
            raise Refused(422, "Choose a role, and whether the account is open.")
        if user_id == actor.id:
            raise Refused(422, "This is your own account: another admin can change it.")
        standing = {"role": role, "state": state}
        write(request, people.set_standing, user_id, **standing, actor=actor.id, now=now)
    except HeedfulError as error:
        return _page(request, problem=str(error), status=422)
    return _page(request, said=[f"{account.name} is {role}, and {state}; logged out everywhere."])


def link_password(request: Request, user_id: int) -> Response:
    """Shows a link, once, under which its bearer sets a new password for the account."""
    account, now, token = _account(request, user_id), now_of(request), secrets.token_urlsafe(32)
    write(
        request,
        sessions.issue_ticket,
        user_id,
        "password",
        token_sha256=token_hash(token),
        expires_at=now + PASSWORD_LINK_S,
        actor=user_of(request).id,
        now=now,
    )
    said = f"Send this link to {account.name}. It is shown once, and can be used once in 24 hours:"
    return _page(request, said=[said, f"{service_of(request).url}/password/{token}"])


def drop_second_factor(request: Request, user_id: int) -> Response:
    """Takes the second factor of somebody away who has lost phone and recovery codes."""
    account, actor, now = _account(request, user_id), user_of(request).id, now_of(request)
    if user_id == actor:
        problem = "This is your own account: another admin can do it."
        return _page(request, problem=problem, status=422)

    def drop(connection: Any) -> None:
        second_factor.drop(connection, user_id, actor=actor, now=now)
        sessions.end_all(connection, user_id, actor=actor, now=now)

    write(request, drop)
    return _page(request, said=[f"{account.name} logs in without a code now, and may set up anew."])


def end_sessions(request: Request, user_id: int) -> Response:
    """Logs somebody out everywhere."""
    account, actor, now = _account(request, user_id), user_of(request).id, now_of(request)
    number = write(request, sessions.end_all, user_id, actor=actor, now=now)
    return _page(request, said=[f"{account.name} was logged out: {number} sessions have ended."])
