"""What labelers see beside their tasks: guidelines, their own work, questions, the survey."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.labeling.annotate import member
from heedful.labeling.differences import differences
from heedful.labeling.pages import go, render
from heedful.labeling.service import Refused, now_of, read, texts_of, user_of, write
from heedful.labeling.survey import MAX_COMMENT_CHARS, SCALE, STATEMENTS
from heedful.store import history, people, projects, tasks, threads
from heedful.store.problems import AnswerProblem

HISTORY_LINES = 50
SHOWN_DAYS = 14


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    project, questions = "/projects/{project_id}", "/work/{assignment_id}/questions"
    app.add_api_route(f"{project}/guidelines", show_guidelines, methods=["GET"])
    app.add_api_route(f"{project}/guidelines", read_guidelines, methods=["POST"])
    app.add_api_route(f"{project}/history", show_history, methods=["GET"])
    app.add_api_route(f"{project}/questions", show_threads, methods=["GET"])
    app.add_api_route(f"{project}/survey", show_survey, methods=["GET"])
    app.add_api_route(f"{project}/survey", save_survey, methods=["POST"])
    app.add_api_route(questions, show_thread, methods=["GET"])
    app.add_api_route(questions, ask, methods=["POST"])


def show_guidelines(request: Request, project_id: int, since: int = 0) -> Response:
    """The instructions, with what has changed since this labeler last read them."""
    project = member(request, project_id)
    versions = read(request, projects.guideline_history, project_id)
    unread = read(request, projects.unread_guidelines, project_id, user_of(request).id)
    return render(
        request,
        "guidelines.html",
        project=project,
        versions=versions,
        num_unread=len(unread),
        **compared(versions, since or versions[0].number - len(unread)),
    )


def compared(versions: list[projects.Guideline], since: int) -> dict[str, Any]:
    """What the page shows of the changes from version ``since`` to the newest, if there was one."""
    (old,) = [one for one in versions if one.number == since] or [None]
    if old is None or old is versions[0]:
        return {"since": 0, "pieces": []}
    return {"since": since, "pieces": differences(old.text, versions[0].text)}


def read_guidelines(request: Request, project_id: int) -> Response:
    """Notes that the newest instructions were read."""
    member(request, project_id)
    newest, user = read(request, projects.guideline, project_id), user_of(request)
    write(request, people.read_guidelines, user.id, newest.id, now=now_of(request))
    return go(f"/projects/{project_id}")


def show_history(request: Request, project_id: int, before: float | None = None) -> Response:
    """A labeler's own figures and work, newest first; ``before`` is where the last page ended."""
    project, user, now = member(request, project_id), user_of(request), now_of(request)
    today = int(now // history.DAY_S)
    since = (today - SHOWN_DAYS + 1) * history.DAY_S

    def find(connection: Any) -> dict[str, Any]:
        by_day = history.per_day(connection, project_id, since=since, labeler_id=user.id)
        return {
            "kinds": history.by_kind(connection, project_id, user.id),
            "days": [
                (day * history.DAY_S, by_day.get(day, 0))
                for day in range(today, today - SHOWN_DAYS, -1)
            ],
            "lines": history.own(
                connection, project_id, user.id, limit=HISTORY_LINES + 1, before=before
            ),
        }

    found = read(request, find)
    lines = found.pop("lines")
    return render(
        request,
        "history.html",
        project=project,
        lines=lines[:HISTORY_LINES],
        has_more=len(lines) > HISTORY_LINES,
        is_first=before is None,
        **found,
    )


def show_threads(request: Request, project_id: int) -> Response:
    """A labeler's questions about tasks, those with new answers first."""
    project = member(request, project_id)
    found = read(request, threads.own_threads, project_id, user_of(request).id)
    return render(request, "questions.html", project=project, threads=found, names=None)


def show_thread(request: Request, assignment_id: str) -> Response:
    """The questions about one task with their answers, and the form for another."""
    user = user_of(request)
    read(request, threads.own_thread, assignment_id, user.id)
    write(request, threads.see_own, assignment_id, user.id, now=now_of(request))
    return _thread_page(request, assignment_id)


def _thread_page(
    request: Request, assignment_id: str, *, text: str = "", problem: str = "", status: int = 200
) -> Response:
    user = user_of(request)
    work = read(request, tasks.view, assignment_id, user.id)
    return render(
        request,
        "question.html",
        status=status,
        project=read(request, projects.get, work.project_id),
        prompt=work.prompt or work.brief,
        outputs=work.outputs,
        messages=read(request, threads.own_thread, assignment_id, user.id),
        action=f"/work/{assignment_id}/questions",
        back=f"/work/{assignment_id}",
        is_researcher=False,
        text=text,
        problem=problem,
    )


def ask(request: Request, assignment_id: str) -> Response:
    """Keeps a question about a task, for researchers to answer."""
    text, user = texts_of(request).get("text", ""), user_of(request)
    try:
        write(request, threads.ask, assignment_id, user.id, text, now=now_of(request))
    except AnswerProblem as problem:
        return _thread_page(request, assignment_id, text=text, problem=str(problem), status=422)
    return go(f"/work/{assignment_id}/questions")


def show_survey(request: Request, project_id: int) -> Response:
    """How the work is for the labeler: voluntary, and shown to researchers without names."""
    return _survey_page(request, project_id, is_kept=False)


def _survey_page(request: Request, project_id: int, *, is_kept: bool) -> Response:
    project = member(request, project_id)
    answers = read(request, people.own_survey, project_id, user_of(request).id)
    return render(
        request,
        "survey.html",
        project=project,
        answers=answers,
        is_kept=is_kept,
        statements=STATEMENTS,
        scale=SCALE,
    )


def save_survey(request: Request, project_id: int) -> Response:
    """Keeps a labeler's answers to the survey in place of earlier ones."""
    member(request, project_id)
    fields, user = texts_of(request), user_of(request)
    answers = {name: fields[name] for name in STATEMENTS if fields.get(name) in SCALE}
    comment = fields.get("comment", "").strip()
    if len(comment) > MAX_COMMENT_CHARS or "\x00" in comment:
        raise Refused(422, f"The comment has {len(comment):,} characters; write a shorter one.")
    if comment:
        answers["comment"] = comment
    write(request, people.save_survey, project_id, user.id, answers, now=now_of(request))
    return _survey_page(request, project_id, is_kept=True)
