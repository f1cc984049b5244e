"""Logging in and out, accepting an invitation, passwords."""

from __future__ import annotations

import secrets
from threading import BoundedSemaphore
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.labeling.access import session_cookie, token_hash
from heedful.labeling.limits import network_of, note_refused, wait_s
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
NO_LINK = "This link was used, has ended or never was: ask an admin for a new one."
CODE_S = 300.0  # from the password to the code of the second factor
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
    app.add_api_route("/account/sessions", end_other_sessions, methods=["POST"])
    app.add_api_route("/password/{token}", show_new_password, methods=["GET"])
    app.add_api_route("/password/{token}", set_new_password, methods=["POST"])


def show_login(request: Request) -> Response:
    """The form to log in."""
    return render(request, "login.html", email="", problem="")


def log_in(request: Request) -> Response:
    """Starts a session, or says that address or password are wrong, never which."""
    fields, now = texts_of(request), now_of(request)
    email, password = fields.get("email", ""), fields.get("password", "")
    subjects = {"login-account": people.normal_email(email), "login-ip": network_of(request)}
    seconds = read(request, wait_s, subjects, now=now)
    if seconds > 0:
        return too_fast(request, "login.html", seconds, email=email)
    user = read(request, people.user_by_email, email)
    is_right = is_password(None if user is None else user.password_hash, password)
    if user is None or not is_right or user.state != "active":
        why = "password" if not is_right or user is None else "closed account"
        write(request, note_refused, subjects, None if user is None else user.id, why, now=now)
        problem = "Address or password are wrong."
        return render(request, "login.html", status=401, email=email, problem=problem)
    write(request, sessions.clear_failures, "login-account", subjects["login-account"])
    return begin_session(request, user) if user.totp_secret is None else _ask_code(request, user)


def too_fast(request: Request, template: str, seconds: float, **values: Any) -> Response:
    """The page again, saying how long to wait."""
    problem = f"Too many attempts: try again in {seconds:.0f} seconds."
    page = render(request, template, status=429, problem=problem, **values)
    page.headers["Retry-After"] = f"{seconds:.0f}"
    return page


def _ask_code(request: Request, user: people.User) -> Response:
    """The form for the code; until it is right there is a ticket and no session."""
    token, now = secrets.token_urlsafe(32), now_of(request)
    write(
        request,
        sessions.issue_ticket,
        user.id,
        "code",
        token_sha256=token_hash(token),
        expires_at=now + CODE_S,
        actor=user.id,
        now=now,
    )
    return render(request, "login_code.html", ticket=token, problem="")


def begin_session(request: Request, user: people.User) -> Response:
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
            return begin_session(request, user)
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
    wrong = problem_with_password(request, fields.get("old", ""))
    if wrong:
        return _account(request, wrong, status=422)
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


def problem_with_password(request: Request, password: str) -> str:
    """Why this is not the password of who is logged in, or "". Guessing slows down as at log-in:
    whoever finds a browser open is not to find the password out."""
    user, now = user_of(request), now_of(request)
    seconds = read(request, wait_s, {"login-account": user.email}, now=now)
    if seconds > 0:
        return f"Too many attempts: try again in {seconds:.0f} seconds."
    if is_password(user.password_hash, password):
        return ""
    subjects = {"login-account": user.email}
    network = network_of(request)
    write(request, note_refused, subjects, user.id, "password, logged in", now=now, network=network)
    return "The password is wrong."


def end_other_sessions(request: Request) -> Response:
    """Logs a person out everywhere but here."""
    user, session = user_of(request), session_of(request)
    but = None if session is None else session.token_sha256
    write(request, sessions.end_all, user.id, but=but, actor=user.id, now=now_of(request))
    return go("/account")


def show_new_password(request: Request, token: str) -> Response:
    """The form of a link for a forgotten password; opening it uses nothing up."""
    _holder(request, token)
    return render(request, "new_password.html", problem="")


def set_new_password(request: Request, token: str) -> Response:
    """Takes the new password, uses the link up, ends all sessions; the next step is to log in."""
    fields, now, user_id = texts_of(request), now_of(request), _holder(request, token)
    try:
        if fields.get("password") != fields.get("again"):
            raise ValueError("The two passwords differ.")
        hashed = hash_password(fields.get("password", ""))
    except ValueError as error:
        return render(request, "new_password.html", status=422, problem=str(error))

    def change(connection: Any) -> bool:
        if not sessions.use_ticket(connection, token_hash(token)):
            return False
        people.change_user(connection, user_id, password_hash=hashed, actor=user_id, now=now)
        sessions.end_all(connection, user_id, actor=user_id, now=now)
        email = people.user(connection, user_id).email
        sessions.clear_failures(connection, "login-account", email)
        return True

    if not write(request, change):
        raise Refused(404, NO_LINK)
    return go("/login")


def _holder(request: Request, token: str) -> int:
    """Whose link for a new password this is."""
    now = now_of(request)
    found = read(request, sessions.ticket_holder, token_hash(token), "password", now=now)
    if found is None or read(request, people.user, found).state != "active":
        raise Refused(404, NO_LINK)
    return found
