"""Logging in and out, and accepting an invitation."""

from __future__ import annotations

import ipaddress
import secrets
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.labeling.access import session_cookie, token_hash
from heedful.labeling.pages import go, render
from heedful.labeling.service import (
    Refused,
    now_of,
    read,
    service_of,
    session_of,
    texts_of,
    user_of,
    write,
)
from heedful.store import people, sessions
from heedful.store.problems import StoreError

MIN_PASSWORD_CHARS = 12
MAX_PASSWORD_CHARS = 256
SESSION_S = {"labeler": 12 * 3600.0, "reviewer": 12 * 3600.0}
STAFF_SESSION_S = 8 * 3600.0
# Failures in a row before there is a delay, which then doubles: nobody is locked out for good, and
# nobody can guess fast. Many accounts behind one address have a wider allowance.
FREE_FAILURES = {"login-account": 5, "login-ip": 30}
MAX_DELAY_S = 900.0
# OWASP's parameters for argon2id: 19 MiB, two passes; four at a time bound the memory.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_slots = BoundedSemaphore(4)
# Verified for an address without an account, so that both take the same time.
_NOBODY = _hasher.hash(secrets.token_hex(16))


def hash_password(password: str) -> str:
    """The argon2id hash of a password; ValueError says what is wrong with the password."""
    if len(password) < MIN_PASSWORD_CHARS:
        raise ValueError(f"A password has {MIN_PASSWORD_CHARS} characters or more.")
    if len(password) > MAX_PASSWORD_CHARS:
        raise ValueError(f"A password has {MAX_PASSWORD_CHARS} characters at most.")
    if len(set(password)) < 5:
        raise ValueError("This password is too simple: use five different characters or more.")
    with _slots:
        return _hasher.hash(password)


def is_password(stored: str | None, password: str) -> bool:
    """Whether this is the password; it takes as long where there is no account."""
    with _slots:
        try:
            _hasher.verify(stored or _NOBODY, password[:MAX_PASSWORD_CHARS])
        except (VerificationError, InvalidHashError):
            return False
    return stored is not None


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    app.add_api_route("/login", show_login, methods=["GET"])
    app.add_api_route("/login", log_in, methods=["POST"])
    app.add_api_route("/logout", log_out, methods=["POST"])
    app.add_api_route("/invitation/{token}", show_invitation, methods=["GET"])
    app.add_api_route("/invitation/{token}", accept, methods=["POST"])
    app.add_api_route("/account", show_account, methods=["GET"])
    app.add_api_route("/account/password", change_password, methods=["POST"])


def show_login(request: Request) -> Response:
    """The form to log in."""
    return render(request, "login.html", email="", problem="")


def log_in(request: Request) -> Response:
    """Starts a session, or says that address or password are wrong, never which."""
    fields, now = texts_of(request), now_of(request)
    email, password = fields.get("email", ""), fields.get("password", "")
    subjects = {"login-account": people.normal_email(email), "login-ip": _network(request)}
    wait_s = 0.0
    for scope, subject in subjects.items():
        num_failures, last_at = read(request, sessions.failures, scope, subject)
        wait_s = max(wait_s, _delay_s(num_failures, last_at, scope, now))
    if wait_s > 0:
        problem = f"Too many attempts: try again in {wait_s:.0f} seconds."
        page = render(request, "login.html", status=429, email=email, problem=problem)
        page.headers["Retry-After"] = f"{wait_s:.0f}"
        return page
    user = read(request, people.user_by_email, email)
    is_right = is_password(None if user is None else user.password_hash, password)
    if user is None or not is_right or user.state != "active":
        for scope, subject in subjects.items():
            write(request, sessions.note_failure, scope, subject, now=now)
        problem = "Address or password are wrong."
        return render(request, "login.html", status=401, email=email, problem=problem)
    write(request, sessions.clear_failures, "login-account", subjects["login-account"])
    return _begin_session(request, user)


def _begin_session(request: Request, user: people.User) -> Response:
    """The way to the first page, with a new session; the token never existed before."""
    service, now = service_of(request), now_of(request)
    token = secrets.token_urlsafe(32)
    length_s = SESSION_S.get(user.role, STAFF_SESSION_S)
    old = session_of(request)
    if old is not None:
        write(request, sessions.end, old.token_sha256, actor=old.user_id, now=now)
    write(
        request,
        sessions.start,
        user.id,
        token_sha256=token_hash(token),
        csrf_token=secrets.token_urlsafe(32),
        expires_at=now + length_s,
        agent=request.headers.get("user-agent", ""),
        now=now,
    )
    response = go("/")
    response.set_cookie(
        session_cookie(service),
        token,
        httponly=True,
        samesite="lax",
        secure=service.is_secure,
        path="/",
    )
    return response


def log_out(request: Request) -> Response:
    """Ends this session."""
    session, user = session_of(request), user_of(request)
    if session is not None:
        write(request, sessions.end, session.token_sha256, actor=user.id, now=now_of(request))
    response = go("/login")
    response.delete_cookie(session_cookie(service_of(request)), path="/")
    response.headers["Clear-Site-Data"] = '"cache", "cookies", "storage"'
    return response


def show_invitation(request: Request, token: str) -> Response:
    """The form to accept; opening the link uses nothing up, so that link scanners do no harm."""
    invitation = read(request, people.invitation, token_hash(token), now=now_of(request))
    if invitation is None:
        raise Refused(404, "This invitation was used, has ended or never was: ask for a new one.")
    return render(request, "invitation.html", invitation=invitation, name="", problem="")


def accept(request: Request, token: str) -> Response:
    """Makes the account of an invitation and logs in."""
    fields, now = texts_of(request), now_of(request)
    digest = token_hash(token)
    invitation = read(request, people.invitation, digest, now=now)
    if invitation is None:
        raise Refused(404, "This invitation was used, has ended or never was: ask for a new one.")
    name, problem = fields.get("name", "").strip(), ""
    if not 0 < len(name) <= 100:
        problem = "Give the name that colleagues may see, of 100 characters at most."
    elif fields.get("password") != fields.get("again"):
        problem = "The two passwords differ."
    try:
        hashed = "" if problem else hash_password(fields.get("password", ""))
        if not problem:
            user = write(
                request, people.accept_invitation, digest, name=name, password_hash=hashed, now=now
            )
            return _begin_session(request, user)
    except (ValueError, StoreError) as error:
        problem = str(error)
    return render(
        request, "invitation.html", status=422, invitation=invitation, name=name, problem=problem
    )


def show_account(request: Request) -> Response:
    """Who is logged in, where, and the form for a new password."""
    return _account(request, "")


def _account(request: Request, problem: str, *, status: int = 200, done: bool = False) -> Response:
    found = read(request, sessions.of_user, user_of(request).id, now=now_of(request))
    return render(
        request, "account.html", status=status, sessions=found, problem=problem, done=done
    )


def change_password(request: Request) -> Response:
    """Takes a new password and ends all other sessions."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)
    if not is_password(user.password_hash, fields.get("old", "")):
        return _account(request, "The old password is wrong.", status=422)
    if fields.get("password") != fields.get("again"):
        return _account(request, "The two new passwords differ.", status=422)
    try:
        hashed = hash_password(fields.get("password", ""))
    except ValueError as error:
        return _account(request, str(error), status=422)
    session = session_of(request)
    but = None if session is None else session.token_sha256
    write(request, people.change_user, user.id, password_hash=hashed, actor=user.id, now=now)
    write(request, sessions.end_all, user.id, but=but, actor=user.id, now=now)
    return _account(request, "", done=True)


def _delay_s(num_failures: int, last_at: float, scope: str, now: float) -> float:
    """How long to wait before the next attempt: 1, 2, 4 ... seconds after the free ones."""
    over = num_failures - FREE_FAILURES[scope]
    return 0.0 if over < 0 else last_at + min(2.0 ** min(over, 30), MAX_DELAY_S) - now


def _network(request: Request) -> str:
    """The neighbourhood of an address: /24 of IPv4, /56 of IPv6."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return "unknown"
    length = 24 if address.version == 4 else 56
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
