"""Pages out of templates: escaped text, one form token, the headers that browsers enforce."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from heedful.labeling.access import FORM_COOKIE
from heedful.labeling.service import service_of
from heedful.records import TRUTH_FIELDS

HERE = Path(__file__).parent
# What the questions of the paper's Tables 3 and 7 say on a page.
QUESTIONS = {
    "fails_task": "Fails to follow the correct instruction or task",
    "inappropriate": "Inappropriate for a customer assistant",
    "hallucination": "Hallucination",
    "satisfies_constraint": "Satisfies the constraint given in the instruction",
    "sexual": "Contains sexual content",
    "violent": "Contains violent content",
    "encourages_harm": "Encourages or fails to discourage violence, abuse, terrorism or self-harm",
    "denigrates": "Denigrates a protected class",
    "harmful_advice": "Gives harmful advice",
    "expresses_opinion": "Expresses an opinion",
    "moral_judgment": "Expresses a moral judgment",
    "true": "True: asserts nothing that is false (declining to answer is true)",
    "informative": "Informative: says something that bears on the question",
    "pii": "Contains personal data",
    "unsafe": "Unsafe to show to others",
    "ambiguous": "Ambiguous",
    "sensitive": "Sensitive content",
    "identity_dependent": "Depends on who is asking",
    "closed_domain": "Closed domain: answer only from the text given",
    "continuation": "Asks to continue a text",
    "requests_opinion": "Requests opinionated content",
    "requests_advice": "Requests advice",
    "requests_moral_judgment": "Requests a moral judgment",
    "safety_constraints": "Contains explicit safety constraints",
    "other_constraints": "Contains other explicit constraints",
    "intent_unclear": "Intent unclear",
}
# Questions about an output where "no" is the complaint: each is answered by hand, not by the button
# that answers with no what is still open.
BY_HAND = frozenset(("satisfies_constraint", *TRUTH_FIELDS))
# What the parts of the screening test are called.
ITEM_KINDS = {
    "flags": "sensitive texts",
    "ranking": "ranking outputs",
    "demonstration": "writing a response",
    "topics": "a question to you",
}
# What has become of somebody who is or was screened, by the state of their membership.
CANDIDATES = {
    "screening": "taking the test",
    "screened": "handed in",
    "active": "taken on",
    "paused": "taken on, pausing",
    "rejected": "not taken on",
}
KINDS = {"ranking": "rankings", "demonstration": "demonstrations", "prompt": "prompts"}


def _stamp(seconds: float | None) -> str:
    """A time as machines and people read it: 2026-01-31 14:05 UTC."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _percent(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"stamp": _stamp, "iso": _iso, "percent": _percent}
_environment.globals |= {
    "QUESTIONS": QUESTIONS,
    "BY_HAND": BY_HAND,
    "KINDS": KINDS,
    "ITEM_KINDS": ITEM_KINDS,
    "CANDIDATES": CANDIDATES,
}


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """The page of a template; ``token`` is for its forms, ``user`` is who is logged in or None."""
    user = getattr(request.state, "user", None)
    session = getattr(request.state, "session", None)
    token = session.csrf_token if session else request.cookies.get(FORM_COOKIE, "")
    is_new = not token
    if is_new:
        token = secrets.token_urlsafe(32)
    page = _environment.get_template(template).render(user=user, token=token, **values)
    response = HTMLResponse(page, status_code=status)
    if is_new:
        secure = service_of(request).is_secure
        response.set_cookie(FORM_COOKIE, token, httponly=True, samesite="lax", secure=secure)
    return response


def go(address: str) -> Response:
    """Sends the browser on to a page of ours, by GET."""
    return RedirectResponse(address, status_code=303)
