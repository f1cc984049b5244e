"""Who may ask for what. A route without a rule here is closed to everybody.

The guard runs before every page: role, then origin, then form token. A page that is not for a role
does not exist for it (404), so that nothing can be learnt by trying addresses.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Literal, get_args
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request

from heedful.labeling.service import Refused, Service, now_of, service_of
from heedful.store import people, sessions

Rule = frozenset[str] | Literal["anyone"]
ANYONE: Literal["anyone"] = "anyone"
MEMBERS = frozenset({"admin", "researcher", "reviewer", "labeler"})
LABELERS = frozenset({"labeler"})
STAFF = frozenset({"admin", "researcher"})
READERS = STAFF | {"reviewer"}
ADMINS = frozenset({"admin"})

RULES: dict[str, Rule] = {
    "GET /health": ANYONE,
    "GET /login": ANYONE,
    "POST /login": ANYONE,
    "POST /login/code": ANYONE,
    "GET /password/{token}": ANYONE,
    "POST /password/{token}": ANYONE,
    "GET /invitation/{token}": ANYONE,
    "POST /invitation/{token}": ANYONE,
    "GET /": MEMBERS,
    "POST /logout": MEMBERS,
    "GET /account": MEMBERS,
    "POST /account/password": MEMBERS,
    "POST /account/sessions": MEMBERS,
    "GET /account/second-factor": MEMBERS,
    "POST /account/second-factor": MEMBERS,
    "POST /account/second-factor/begin": MEMBERS,
    "POST /account/second-factor/codes": MEMBERS,
    "POST /account/second-factor/off": MEMBERS,
    "GET /projects/{project_id}": LABELERS,
    "GET /projects/{project_id}/guidelines": LABELERS,
    "POST /projects/{project_id}/guidelines": LABELERS,
    "GET /projects/{project_id}/history": LABELERS,
    "GET /projects/{project_id}/questions": LABELERS,
    "GET /projects/{project_id}/survey": LABELERS,
    "POST /projects/{project_id}/survey": LABELERS,
    "GET /projects/{project_id}/screening": LABELERS,
    "POST /projects/{project_id}/screening": LABELERS,
    "GET /projects/{project_id}/screening/{item_id}": LABELERS,
    "POST /projects/{project_id}/screening/{item_id}": LABELERS,
    "POST /projects/{project_id}/next": LABELERS,
    "GET /work/{assignment_id}": LABELERS,
    "POST /work/{assignment_id}/submit": LABELERS,
    "POST /work/{assignment_id}/save": LABELERS,
    "POST /work/{assignment_id}/skip": LABELERS,
    "POST /work/{assignment_id}/flag": LABELERS,
    "POST /work/{assignment_id}/undo": LABELERS,
    "PUT /work/{assignment_id}/draft": LABELERS,
    "GET /work/{assignment_id}/questions": LABELERS,
    "POST /work/{assignment_id}/questions": LABELERS,
    "POST /work/{assignment_id}/heartbeat": LABELERS,
    "GET /admin": READERS,
    "GET /admin/people": ADMINS,
    "POST /admin/people/{user_id}": ADMINS,
    "POST /admin/people/{user_id}/password": ADMINS,
    "POST /admin/people/{user_id}/second-factor": ADMINS,
    "POST /admin/people/{user_id}/sessions": ADMINS,
    "GET /admin/people/{user_id}/erase": ADMINS,
    "POST /admin/people/{user_id}/erase": ADMINS,
    "GET /admin/audit": STAFF,
    "POST /admin/audit/check": STAFF,
    "POST /admin/projects": STAFF,
    "GET /admin/projects/{project_id}": READERS,
    "POST /admin/projects/{project_id}/import": STAFF,
    "POST /admin/projects/{project_id}/settings": STAFF,
    "GET /admin/projects/{project_id}/guidelines": READERS,
    "POST /admin/projects/{project_id}/guidelines": STAFF,
    "GET /admin/projects/{project_id}/questions": READERS,
    "GET /admin/projects/{project_id}/questions/{assignment_id}": READERS,
    "POST /admin/projects/{project_id}/questions/{assignment_id}": STAFF,
    "GET /admin/projects/{project_id}/survey": READERS,
    "GET /admin/projects/{project_id}/writing": READERS,
    "POST /admin/projects/{project_id}/writing": STAFF,
    "POST /admin/projects/{project_id}/writing/responses": STAFF,
    "GET /admin/projects/{project_id}/labelers": READERS,
    "POST /admin/projects/{project_id}/labelers": STAFF,
    "POST /admin/projects/{project_id}/invitations": STAFF,
    "POST /admin/projects/{project_id}/invitations/{invitation_id}/revoke": STAFF,
    "GET /admin/projects/{project_id}/screening": READERS,
    "POST /admin/projects/{project_id}/screening/items": STAFF,
    "POST /admin/projects/{project_id}/screening/items/import": STAFF,
    "POST /admin/projects/{project_id}/screening/items/{item_id}/drop": STAFF,
    "GET /admin/projects/{project_id}/screening/{code}": READERS,
    "POST /admin/projects/{project_id}/screening/{code}/grades": READERS,
    "POST /admin/projects/{project_id}/screening/{code}/decision": STAFF,
    "GET /admin/projects/{project_id}/quarantine": READERS,
    "POST /admin/projects/{project_id}/quarantine": READERS,
    "POST /admin/projects/{project_id}/quarantine/remove": STAFF,
    "GET /admin/projects/{project_id}/erasure": STAFF,
    "POST /admin/projects/{project_id}/erasure": STAFF,
    "GET /admin/projects/{project_id}/prompts": READERS,
    "GET /admin/projects/{project_id}/tasks": READERS,
    "GET /admin/projects/{project_id}/tasks/{task}": READERS,
    "POST /admin/projects/{project_id}/tasks/{task}/decision": STAFF,
    "POST /admin/projects/{project_id}/tasks/{task}/gold": STAFF,
    "POST /admin/projects/{project_id}/tasks/{task}/work": STAFF,
    "POST /admin/projects/{project_id}/snapshots": STAFF,
    "GET /admin/projects/{project_id}/snapshots/{number}/{name}": STAFF,
}
# What somebody may see who has yet to set up the second factor that their role needs.
WITHOUT_CODE = frozenset(
    {"/logout", *(key.split(" ")[1] for key in RULES if "/account/second-factor" in key)}
)
MAX_DIGITS = 18  # of a number in 64 bits
MAX_FORM_FIELDS = 400  # nine outputs with every question of Table 3 have about 150
MAX_PART_BYTES = 1_000_000
MAX_FORM_BYTES = 4_000_000
FORM_COOKIE = "heedful-form"
# Idle limit in seconds: those who see everything are logged out sooner.
IDLE_S = {"labeler": 3600.0, "reviewer": 3600.0, "researcher": 1800.0, "admin": 1800.0}


def session_cookie(service: Service) -> str:
    """The cookie's name; with ``__Host-`` browsers hold to one host, TLS and the root path."""
    return "__Host-heedful" if service.is_secure else "heedful"


def token_hash(token: str) -> str:
    """What the store keeps of a secret that it must only recognise."""
    return sha256(token.encode()).hexdigest()


async def guard(request: Request) -> AsyncIterator[None]:
    """Lets a request through to its page, or raises Refused; lets go of uploads afterwards."""
    try:
        await _check(request)
        yield
    finally:
        await request.close()


async def _check(request: Request) -> None:
    rule = RULES.get(f"{request.method} {request.scope['route'].path}")
    if rule is None:
        raise Refused(404, "There is no such page.")
    await run_in_threadpool(_identify, request)
    user = request.state.user
    if request.method not in ("GET", "HEAD"):
        check_origin(request)
    if rule != ANYONE:
        if user is None:
            raise Refused(401, "Log in first.", instead="/login")
        if user.role not in rule:
            raise Refused(404, "There is no such page.")
        if _lacks_second_factor(request) and request.scope["route"].path not in WITHOUT_CODE:
            message = "Set up a second factor first: your role needs one here."
            raise Refused(403, message, instead="/account/second-factor")
    _check_numbers(request)
    request.state.form = FormData()
    if request.method not in ("GET", "HEAD"):
        _check_size(request)
        await _read_form(request)


def _lacks_second_factor(request: Request) -> bool:
    user = request.state.user
    return user.totp_secret is None and user.role in service_of(request).second_factor


def _check_numbers(request: Request) -> None:
    """Refuses what no database keeps in an address: there is nothing of that number or name."""
    takes = request.scope["route"].dependant
    given = {**request.query_params, **request.path_params}
    for one in (*takes.path_params, *takes.query_params):
        kind, text = one.field_info.annotation, given.get(one.alias, "")
        is_number = int in (kind, *get_args(kind))  # int, or int | None
        if (is_number and len(text) > MAX_DIGITS) or "\x00" in text:
            raise Refused(404, "There is no such page.")


def _check_size(request: Request) -> None:
    """Refuses a body that is too large before it is read; only imports take whole files."""
    if request.scope["route"].path.endswith("/import"):
        return
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise Refused(411, "This request does not say how long it is.")
    if int(length) > MAX_FORM_BYTES:
        raise Refused(413, "This is too large: a form has 4 MB at most.")


def _identify(request: Request) -> None:
    """Finds who is asking, by the session cookie."""
    request.state.user = request.state.session = None
    service, now = service_of(request), now_of(request)
    token = request.cookies.get(session_cookie(service))
    if not token:
        return
    with service.database.read() as connection:
        session = sessions.find(connection, token_hash(token), idle_s=max(IDLE_S.values()), now=now)
        user = None if session is None else people.user(connection, session.user_id)
    if session is None or user is None or user.state != "active":
        return
    if now - session.seen_at > IDLE_S[user.role]:
        return
    if now - session.seen_at > sessions.TOUCH_S:
        service.database.write(lambda c: sessions.touch(c, session.token_sha256, now=now))
    request.state.user, request.state.session = user, session


def check_origin(request: Request) -> None:
    """Refuses what another site made a browser send (Sec-Fetch-Site, else Origin)."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise Refused(403, "This form came from another site.")
        return
    origin = request.headers.get("origin", "")
    ours = {urlsplit(service_of(request).url).netloc, request.headers.get("host", "")}
    if urlsplit(origin).netloc not in ours - {""}:
        raise Refused(403, "This form came from another site, or your browser hides where from.")


async def _read_form(request: Request) -> None:
    """Reads the form, and holds its token against that of the session (of the browser, before)."""
    if request.headers.get("content-type", "").startswith("application/json"):
        given = request.headers.get("x-form-token", "")
    else:
        request.state.form = await request.form(
            max_files=1, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_PART_BYTES
        )
        given = str(request.state.form.get("token", ""))
    session = request.state.session
    wanted = session.csrf_token if session else request.cookies.get(FORM_COOKIE, "")
    if not wanted or not hmac.compare_digest(given.encode(), wanted.encode()):
        raise Refused(
            403, "This form is from before you logged in or out: go back, load it again, send it."
        )
