"""The pages of labelers: their projects, the next task, rating and ranking, writing.

A page is made of ``tasks.Work``, in which nothing stands that a labeler must not know.
"""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.labeling.forms import (
    CHECKS,
    MAX_PAIRS,
    active_s_of,
    answer_of,
    doubts,
    draft_of,
    num_pairs_of,
    revision_of,
)
from heedful.labeling.pages import go, render
from heedful.labeling.service import (
    Refused,
    clean_texts,
    now_of,
    read,
    texts_of,
    user_of,
    write,
)
from heedful.records import USE_CASES
from heedful.store import history, people, pools, projects, tasks, threads
from heedful.store.assignments import Work
from heedful.store.problems import AnswerProblem, DraftConflict, NotFound

KINDS = ("ranking", "demonstration", "prompt")
DAY_S = 24 * 3600.0


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    project, work = "/projects/{project_id}", "/work/{assignment_id}"
    app.add_api_route("/", home, methods=["GET"])
    app.add_api_route(project, show_project, methods=["GET"])
    app.add_api_route(f"{project}/next", next_task, methods=["POST"])
    app.add_api_route(work, show_work, methods=["GET"])
    app.add_api_route(f"{work}/submit", submit, methods=["POST"])
    app.add_api_route(f"{work}/save", save, methods=["POST"])
    app.add_api_route(f"{work}/skip", skip, methods=["POST"])
    app.add_api_route(f"{work}/flag", flag, methods=["POST"])
    app.add_api_route(f"{work}/undo", undo, methods=["POST"])
    app.add_api_route(f"{work}/draft", save_draft, methods=["PUT"])
    app.add_api_route(f"{work}/heartbeat", heartbeat, methods=["POST"])


def home(request: Request) -> Response:
    """A labeler's projects; the others go to their own first page."""
    user = user_of(request)
    if user.role != "labeler":
        return go("/admin")

    def find(connection: Any) -> list[Any]:
        mine = people.memberships_of(connection, user.id)
        return [(projects.get(connection, one.project_id), one) for one in mine]

    return render(request, "home.html", projects=read(request, find))


def member(request: Request, project_id: int) -> projects.Project:
    """The project, if this labeler is in it."""
    user = user_of(request)
    if read(request, people.membership, project_id, user.id) is None:
        raise NotFound("there is no such project")
    return read(request, projects.get, project_id)


def show_project(request: Request, project_id: int, done: str = "", what: str = "") -> Response:
    """What there is to do, and how far this labeler has come."""
    project, user, now = member(request, project_id), user_of(request), now_of(request)
    start = now - now % DAY_S
    return render(
        request,
        "project.html",
        project=project,
        membership=read(request, people.membership, project_id, user.id),
        unread=read(request, projects.unread_guidelines, project_id, user.id),
        today=read(request, history.totals, project_id, labeler_id=user.id, since=start),
        totals=read(request, history.totals, project_id, labeler_id=user.id),
        kinds=read(request, pools.kinds, project_id),
        num_answered=sum(
            one.num_new > 0 for one in read(request, threads.own_threads, project_id, user.id)
        ),
        done=_done(request, done, what),
    )


def next_task(request: Request, project_id: int) -> Response:
    """Takes the next task (what is under way comes first) and goes there."""
    member(request, project_id)
    return _next(request, project_id, texts_of(request).get("kind", ""))


def _next(request: Request, project_id: int, kind: str, note: str = "") -> Response:
    if kind not in KINDS:
        raise NotFound("there are no tasks of this kind")
    work = write(request, tasks.claim, project_id, user_of(request).id, kind, now=now_of(request))
    if work is None:
        return go(f"/projects/{project_id}{note or f'?what=none-{kind}'}")
    return go(f"/work/{work.id}{note}")


def show_work(request: Request, assignment_id: str, done: str = "", what: str = "") -> Response:
    """The page of one task; it counts on from the seconds of work that were kept with its draft."""
    work = _work(request, assignment_id)
    if work.state not in ("leased", "expired"):
        return go(f"/projects/{work.project_id}?done={assignment_id}&what={work.state}")
    draft = work.draft if isinstance(work.draft, dict) else {}
    fields = draft | {"active_s": str(work.active_s or "")}
    return _work_page(request, work, fields, done=_done(request, done, what))


def _work(request: Request, assignment_id: str) -> Work:
    work = read(request, tasks.view, assignment_id, user_of(request).id)
    if work.kind not in KINDS:
        raise NotFound("there is no page for tasks of this kind")
    return work


def _done(request: Request, assignment_id: str, what: str) -> dict[str, Any] | None:
    """What was just done, if it is this labeler's and can be named: for the line with the undo."""
    if what.startswith("none-") and what[5:] in KINDS:
        return {"what": "none", "kind": what[5:], "id": ""}
    if what not in ("submitted", "skipped") or not assignment_id:
        return None
    try:
        work = read(request, tasks.view, assignment_id, user_of(request).id)
    except NotFound:
        return None
    return {"what": what, "kind": work.kind, "id": work.id} if work.state == what else None


def _work_page(
    request: Request,
    work: Work,
    fields: dict[str, str],
    *,
    status: int = 200,
    problem: AnswerProblem | None = None,
    doubt: tuple[str, ...] | list[str] = (),
    other: dict[str, str] | None = None,
    done: dict[str, Any] | None = None,
    revision: int | None = None,
) -> Response:
    """The form of a task, filled with ``fields``; ``other`` is what another tab has saved."""
    return render(
        request,
        f"{work.kind}.html",
        status=status,
        work=work,
        project=read(request, projects.get, work.project_id),
        guideline=read(request, projects.guideline, work.project_id),
        fields=fields,
        letters="ABCDEFGHI",
        num_pairs=num_pairs_of(fields),
        max_pairs=MAX_PAIRS,
        use_cases=USE_CASES,
        problem=problem,
        doubt=doubt,
        checks=CHECKS,
        other=other,
        done=done,
        revision=work.draft_revision if revision is None else revision,
        active_s=active_s_of(fields),  # the page that comes back counts on
        key=fields.get("key") or secrets.token_urlsafe(16),
    )


def submit(request: Request, assignment_id: str) -> Response:
    """Keeps the answer and goes to the next task; an incomplete one comes back as it was."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)
    work = _work(request, assignment_id)
    try:
        answer = answer_of(fields, work)
        found = doubts(answer, work, active_s_of(fields))
        if set(found) - set(fields.get("checks", "").split()):
            return _work_page(request, work, fields, status=422, doubt=found)
        key = fields.get("key", "")
        if not 8 <= len(key) <= 100:
            raise Refused(422, "This form has no key: load the page again.")

        def keep(connection: Any) -> None:
            # The draft comes back with an undo, so it is what was submitted.
            if work.state in ("leased", "expired"):
                _save(connection, assignment_id, user.id, fields, now)
            tasks.submit(
                connection,
                assignment_id,
                user.id,
                answer,
                key=f"{user.id}/{key}",
                active_s=active_s_of(fields),
                now=now,
            )

        write(request, keep)
    except AnswerProblem as problem:
        return _work_page(request, work, fields, status=422, problem=problem)
    except DraftConflict as conflict:
        return _both_versions(request, work, fields, conflict)
    note = f"?done={assignment_id}&what=submitted"
    return _next(request, work.project_id, work.kind, note)


def save(request: Request, assignment_id: str) -> Response:
    """Keeps the form as a draft, for browsers without our script."""
    return _keep_then(request, assignment_id, lambda: go(f"/work/{assignment_id}"))


def skip(request: Request, assignment_id: str) -> Response:
    """Gives the task to others. What was typed stays with it, and comes back with an undo."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)

    def give_back() -> Response:
        work = _work(request, assignment_id)
        reason = fields.get("reason", "")[:500]
        write(request, tasks.skip, assignment_id, user.id, reason=reason, now=now)
        note = f"?done={assignment_id}&what=skipped"
        return _next(request, work.project_id, work.kind, note)

    return _keep_then(request, assignment_id, give_back)


def flag(request: Request, assignment_id: str) -> Response:
    """Skips the task and takes its prompt away from everybody until somebody has looked at it."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)

    def take_away() -> Response:
        work = _work(request, assignment_id)
        reason = fields.get("reason", "")[:500] or "flagged by a labeler"
        write(request, tasks.flag_prompt, assignment_id, user.id, reason=reason, now=now)
        note = f"?done={assignment_id}&what=skipped"
        return _next(request, work.project_id, work.kind, note)

    return _keep_then(request, assignment_id, take_away)


def _keep_then(request: Request, assignment_id: str, then: Any) -> Response:
    """Saves the form as a draft and goes on; shows both versions where another tab has saved."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)
    work = _work(request, assignment_id)
    if work.state in ("leased", "expired"):
        try:
            write(request, _save, assignment_id, user.id, fields, now)
        except DraftConflict as conflict:
            return _both_versions(request, work, fields, conflict)
    return then()


def _both_versions(
    request: Request, work: Work, fields: dict[str, str], conflict: DraftConflict
) -> Response:
    """The form as it was sent, beside what another tab has saved; sent again it counts."""
    other = conflict.payload if isinstance(conflict.payload, dict) else {}
    return _work_page(request, work, fields, status=409, other=other, revision=conflict.revision)


def _save(
    connection: Any, assignment_id: str, user_id: int, fields: dict[str, str], now: float
) -> int:
    """The draft's new revision."""
    return tasks.save_draft(
        connection,
        assignment_id,
        user_id,
        draft_of(fields),
        revision=revision_of(fields),
        active_s=active_s_of(fields),
        now=now,
    )


def undo(request: Request, assignment_id: str) -> Response:
    """Brings back what was submitted or skipped, as it was."""
    _work(request, assignment_id)
    work = write(request, tasks.undo, assignment_id, user_of(request).id, now=now_of(request))
    return go(f"/work/{work.id}")


async def save_draft(request: Request, assignment_id: str) -> Response:
    """Keeps what the page has sent as {"fields", "revision", "active_s"}; the last may be missing.

    Answers with the new revision.
    """
    try:
        sent = await request.json()
        fields = clean_texts(sent["fields"]) | {"revision": str(int(sent["revision"]))}
        fields["active_s"] = str(sent.get("active_s", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused(422, 'A draft is {"fields": {name: text}, "revision": number}.') from error

    def keep() -> Response:
        user, now = user_of(request), now_of(request)
        try:
            new = write(request, _save, assignment_id, user.id, fields, now)
        except DraftConflict as conflict:
            return JSONResponse(
                {"error": str(conflict), "fields": conflict.payload, "revision": conflict.revision},
                status_code=409,
            )
        return JSONResponse({"revision": new, "saved_at": now})

    return await run_in_threadpool(keep)


async def heartbeat(request: Request, assignment_id: str) -> Response:
    """The lease, made longer while somebody works at the page, which may say {"active_s"}."""
    is_json = request.headers.get("content-type", "").startswith("application/json")
    try:
        sent = await request.json() if is_json else {}
        seconds = active_s_of({"active_s": str(sent.get("active_s", ""))})
    except (ValueError, AttributeError) as error:
        raise Refused(422, 'A heartbeat is {"active_s": seconds}, or {}.') from error

    def renew() -> Response:
        user, now = user_of(request), now_of(request)
        lease = write(request, tasks.heartbeat, assignment_id, user.id, active_s=seconds, now=now)
        return JSONResponse({"state": lease.state, "lease_until": lease.lease_until})

    return await run_in_threadpool(renew)
