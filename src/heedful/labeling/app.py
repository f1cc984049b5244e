"""The labeling service: its pages, its errors in words, and the work that goes on beside them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from heedful.errors import HeedfulError
from heedful.labeling import (
    accounts,
    admin,
    annotate,
    auth,
    disputes,
    erasures,
    own_work,
    record,
    replies,
    screening,
    second_factor,
    selection,
)
from heedful.labeling.access import guard
from heedful.labeling.counts import Counts
from heedful.labeling.figures import FigureCache
from heedful.labeling.pages import HERE, go, render
from heedful.labeling.service import Refused, Service
from heedful.store import history, prompt_summary, sessions, tasks
from heedful.store.problems import AnswerProblem, Conflict, NotFound

# What adds pages; a path with a name in it comes after those that it would take for one.
PARTS = (
    auth,
    second_factor,
    annotate,
    own_work,
    screening,
    admin,
    replies,
    selection,
    disputes,
    erasures,
    accounts,
    record,
)
MAX_BODY_BYTES = 50_000_000  # an uploaded file
LABELS_AT_ONCE = 20_000  # of prompts: counted while the page waits
EXPIRE_EVERY_S = 15.0
# Nothing inline, nothing from elsewhere: what a labeler is shown cannot become a program.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_KNOWN = {
    404: "There is no such page.",
    405: "This page does not take that.",
    413: "This is too large: 50 MB are the most.",
}
_log = logging.getLogger("heedful.labeling")


def create_app(service: Service) -> FastAPI:
    """The application of a service; any ASGI server can run it."""
    app = FastAPI(
        title="heedful labeling",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(guard)],
        lifespan=_lifespan,
        max_body_size=MAX_BODY_BYTES,
    )
    app.state.service = service
    app.state.figures = FigureCache(service.database, service.clock)
    app.state.prompt_summaries = FigureCache(
        service.database,
        service.clock,
        compute=prompt_summary.summary,
        version_of=prompt_summary.version,
        at_once=LABELS_AT_ONCE,
    )
    app.state.queues = Counts(
        service.database,
        service.clock,
        lambda connection, project: admin.count_queue(connection, project, service.clock()),
    )
    app.state.totals = Counts(service.database, service.clock, history.totals)
    app.middleware("http")(with_headers)
    app.add_api_route("/health", health, methods=["GET"])
    for part in PARTS:
        part.add_routes(app)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for kind in (HeedfulError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, show_error)
    return app


async def with_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """The response with the headers of every page, errors included; only static files are kept."""
    try:
        response = await call_next(request)
    except ClientDisconnect:  # whoever sent half a form and went away reads no answer
        response = PlainTextResponse("", status_code=400)
    except Exception as error:
        response = await show_error(request, error)
    for name, value in HEADERS.items():
        response.headers[name] = value
    if request.app.state.service.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    is_static = request.url.path.startswith("/static/")
    response.headers["Cache-Control"] = "no-cache" if is_static else "no-store"
    return response


def health() -> Response:
    """That the service answers; no more, since everybody may ask."""
    return PlainTextResponse("ok")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Gives back the tasks of those who have left, every quarter of a minute."""
    service: Service = app.state.service

    def tidy() -> None:
        now = service.clock()
        service.database.write(lambda c: tasks.expire(c, now=now))
        service.database.write(lambda c: sessions.drop_expired(c, now=now))

    async def keep_tidy() -> None:
        while True:
            await asyncio.sleep(EXPIRE_EVERY_S)
            try:
                await run_in_threadpool(tidy)
            except HeedfulError as error:
                _log.error("leases could not be ended: %s", error)

    background = asyncio.create_task(keep_tidy())
    yield
    background.cancel()


async def show_error(request: Request, error: Exception) -> Response:
    """An error as a page (as JSON for our script), without anything that is not the reader's."""
    status, message = _in_words(error)
    if status == 500:
        number = secrets.token_hex(4)
        place = (request.method, request.url.path)
        _log.error("error %s at %s %s", number, *place, exc_info=error)
        message = f"Something went wrong here. Nothing was lost; tell the operator: error {number}."
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"error": message}, status_code=status)
    instead = error.instead if isinstance(error, Refused) else ""
    if instead and request.method == "GET":
        return go(instead)
    try:
        page = await run_in_threadpool(
            render, request, "message.html", status=status, message=message
        )
    except Exception:  # the page of an error must not be another error
        _log.exception("the page of an error failed")
        return PlainTextResponse(message, status_code=status)
    return page


def _in_words(error: Exception) -> tuple[int, str]:
    """(HTTP status, what to say)"""
    if isinstance(error, Refused):
        return error.status, str(error)
    if isinstance(error, NotFound | RequestValidationError):
        return 404, "There is no such page, or it is not yours."
    if isinstance(error, Conflict):
        return 409, str(error)
    if isinstance(error, AnswerProblem):
        return 422, str(error)
    if isinstance(error, HTTPException):
        return error.status_code, _KNOWN.get(error.status_code, str(error.detail))
    if isinstance(error, HeedfulError):
        return 422, str(error)
    return 500, ""
