"""The second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes.

A code counts once, within half a minute of its time, and guessing gets slower with every failure.
Recovery codes are kept as hashes; the app's secret has to be kept as it is, so whoever reads the
database reads that.
"""

from __future__ import annotations

import secrets
from base64 import b32encode
from importlib import import_module
from typing import Any

from fastapi import FastAPI
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from heedful.errors import MissingExtraError
from heedful.labeling.access import token_hash
from heedful.labeling.auth import begin_session, problem_with_password, too_fast
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

ISSUER = "heedful"
NUM_RECOVERY_CODES = 10
SECRET_BYTES = 20  # RFC 4226: as long as the hash
RECOVERY_BYTES = 10  # 80 bits: beyond guessing, so that a plain hash is enough
PENDING = "totp_pending"  # the setting that holds a secret until its first code has come back
WINDOW = 1  # codes before and after the present one that count, for clocks that differ
WRONG = "This code is wrong, or was used before: wait for the next one."


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    own = "/account/second-factor"
    app.add_api_route("/login/code", log_in_with_code, methods=["POST"])
    app.add_api_route(own, show, methods=["GET"])
    app.add_api_route(own, confirm, methods=["POST"])
    app.add_api_route(f"{own}/begin", begin, methods=["POST"])
    app.add_api_route(f"{own}/codes", renew_codes, methods=["POST"])
    app.add_api_route(f"{own}/off", switch_off, methods=["POST"])


def step_of(secret: str, code: str, now: float) -> int | None:
    """The time step (30 s) that a code belongs to, or None where it is not one of now."""
    pyotp = _library("pyotp")
    try:
        totp = pyotp.TOTP(secret)
        return totp.verify_and_get_timecode(code, for_time=now, valid_window=WINDOW)
    except pyotp.exceptions.OTPVerificationError:
        return None


def _library(name: str) -> Any:
    """A library that is needed where somebody has a second factor, and nowhere else."""
    try:
        return import_module(name)
    except ImportError as error:
        message = (
            f"{name} is not installed here: the operator needs pip install 'heedful[labeling]'"
        )
        raise MissingExtraError(message) from error


def new_recovery_codes() -> list[str]:
    """Ten codes such as ``abcd-efgh-ijkl-mnop``, to be written down."""
    made = []
    for _ in range(NUM_RECOVERY_CODES):
        text = b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
        made.append("-".join(text[start : start + 4] for start in range(0, len(text), 4)))
    return made


def _recovery_hash(code: str) -> str:
    return token_hash("".join(code.lower().split()).replace("-", ""))


def check_code(connection: Any, user: people.User, network: str, code: str, *, now: float) -> float:
    """0.0 where the code is right, and used up now; the seconds to wait; -1.0 where it is wrong.

    One transaction, so that attempts at the same time are counted one after the other.
    """
    subjects = {"code-account": str(user.id), "login-ip": network}
    seconds = wait_s(connection, subjects, now=now)
    if seconds > 0:
        return seconds
    digits = "".join(code.split())
    if len(digits) == 6 and digits.isascii() and digits.isdigit():
        step = step_of(user.totp_secret or "", digits, now)
        is_right = step is not None and sessions.use_totp_step(connection, user.id, step)
    else:
        given = _recovery_hash(code)
        is_right = sessions.use_recovery_code(connection, user.id, given, now=now)
    if is_right:
        sessions.clear_failures(connection, "code-account", str(user.id))
        return 0.0
    note_refused(connection, subjects, user.id, "second factor", now=now)
    return -1.0


def log_in_with_code(request: Request) -> Response:
    """Starts the session of somebody whose password was right a moment ago."""
    fields, now = texts_of(request), now_of(request)
    ticket = fields.get("ticket", "")
    holder = read(request, sessions.ticket_holder, token_hash(ticket), "code", now=now)
    user = None if holder is None else read(request, people.user, holder)
    if user is None or user.state != "active" or user.totp_secret is None:
        problem = "That took too long: log in again."
        return render(request, "login.html", status=401, email="", problem=problem)

    def attempt(connection: Any) -> float:
        found = check_code(connection, user, network_of(request), fields.get("code", ""), now=now)
        if found == 0.0 and not sessions.use_ticket(connection, token_hash(ticket)):
            return -1.0  # used in another tab between the two
        return found

    seconds = write(request, attempt)
    if seconds > 0:
        return too_fast(request, "login_code.html", seconds, ticket=ticket)
    if seconds < 0:
        return render(request, "login_code.html", status=401, ticket=ticket, problem=WRONG)
    return begin_session(request, user)


def show(request: Request) -> Response:
    """Whether there is a second factor, and how to set it up or change it."""
    return _page(request, "")


def _page(
    request: Request, problem: str, *, status: int = 200, codes: list[str] | None = None
) -> Response:
    user = read(request, people.user, user_of(request).id)
    pending = "" if user.totp_secret else user.settings.get(PENDING, "")
    return render(
        request,
        "second_factor.html",
        status=status,
        problem=problem,
        is_on=user.totp_secret is not None,
        is_needed=user.role in service_of(request).second_factor,
        secret=" ".join(pending[start : start + 4] for start in range(0, len(pending), 4)),
        picture=_picture(pending, user.email) if pending else "",
        codes=codes or [],
        num_codes=read(request, sessions.num_recovery_codes, user.id),
    )


def _picture(secret: str, email: str) -> Markup:
    """The QR code that an authenticator app reads, drawn as SVG."""
    totp, segno = _library("pyotp").TOTP(secret), _library("segno")
    address = totp.provisioning_uri(name=email, issuer_name=ISSUER)
    title = "QR code of the secret below"
    drawn = segno.make(address, error="m", micro=False)
    return Markup(drawn.svg_inline(scale=4, border=4, light="#fff", title=title))


def begin(request: Request) -> Response:
    """Makes a secret, which counts once its first code has come back."""
    user, now = user_of(request), now_of(request)
    secret = b32encode(secrets.token_bytes(SECRET_BYTES)).decode()
    if user.totp_secret is not None:
        raise Refused(409, "You have a second factor already: switch it off first.")

    def keep(connection: Any) -> None:
        settings = people.user(connection, user.id).settings | {PENDING: secret}
        people.change_user(connection, user.id, settings=settings, actor=user.id, now=now)

    write(request, keep)
    return go("/account/second-factor")


def confirm(request: Request) -> Response:
    """Turns the second factor on with the app's first code; shows the recovery codes, once."""
    user, now = user_of(request), now_of(request)
    pending = user.settings.get(PENDING, "")
    if user.totp_secret is not None or not pending:
        return go("/account/second-factor")
    step = step_of(pending, "".join(texts_of(request).get("code", "").split()), now)
    if step is None:
        problem = "This is not the app's code of now. Is the clock of your phone right?"
        return _page(request, problem, status=422)
    codes = new_recovery_codes()

    def turn_on(connection: Any) -> None:
        settings = dict(people.user(connection, user.id).settings)
        if settings.pop(PENDING, "") != pending:
            raise Refused(409, "This was begun anew in another tab: load the page again.")
        changed = {"totp_secret": pending, "settings": settings}
        people.change_user(connection, user.id, **changed, actor=user.id, now=now)
        sessions.use_totp_step(connection, user.id, step)
        _set_codes(connection, user.id, codes, now)
        _end_others(connection, request)

    write(request, turn_on)
    return _page(request, "", codes=codes)


def renew_codes(request: Request) -> Response:
    """New recovery codes in the place of the old ones, for a code of the app."""

    def renew(connection: Any) -> list[str]:
        codes = new_recovery_codes()
        _set_codes(connection, user_of(request).id, codes, now_of(request))
        return codes

    return _with_code(request, renew)


def switch_off(request: Request) -> Response:
    """Takes the second factor away, for password and code; not where the role needs one."""
    user, now = user_of(request), now_of(request)
    if user.role in service_of(request).second_factor:
        return _page(request, "Your role needs a second factor here.", status=422)
    wrong = problem_with_password(request, texts_of(request).get("password", ""))
    if wrong:
        return _page(request, wrong, status=422)

    def turn_off(connection: Any) -> list[str]:
        drop(connection, user.id, actor=user.id, now=now)
        _end_others(connection, request)
        return []

    return _with_code(request, turn_off)


def drop(connection: Any, user_id: int, *, actor: int | None, now: float) -> None:
    """Takes a person's second factor and recovery codes away."""
    people.change_user(connection, user_id, totp_secret=None, actor=actor, now=now)
    sessions.set_recovery_codes(connection, user_id, [], now=now)


def _with_code(request: Request, then: Any) -> Response:
    """Does something for a right code; the page says what is wrong with another one."""
    user, now, code = user_of(request), now_of(request), texts_of(request).get("code", "")
    if user.totp_secret is None:
        return go("/account/second-factor")

    def attempt(connection: Any) -> tuple[float, list[str]]:
        seconds = check_code(connection, user, network_of(request), code, now=now)
        return seconds, then(connection) if seconds == 0.0 else []

    seconds, codes = write(request, attempt)
    if seconds > 0:
        problem = f"Too many attempts: try again in {seconds:.0f} seconds."
        return _page(request, problem, status=429)
    return _page(request, WRONG, status=422) if seconds < 0 else _page(request, "", codes=codes)


def _set_codes(connection: Any, user_id: int, codes: list[str], now: float) -> None:
    hashed = [_recovery_hash(code) for code in codes]
    sessions.set_recovery_codes(connection, user_id, hashed, now=now)


def _end_others(connection: Any, request: Request) -> None:
    user, session = user_of(request), session_of(request)
    but = None if session is None else session.token_sha256
    sessions.end_all(connection, user.id, but=but, actor=user.id, now=now_of(request))
