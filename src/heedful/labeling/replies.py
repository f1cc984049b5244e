"""What researchers ask of labelers and hear from them: prompts to write, questions, the survey."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.labeling import survey
from heedful.labeling.own_work import compared
from heedful.labeling.pages import go, render
from heedful.labeling.service import Refused, now_of, read, texts_of, user_of, write
from heedful.store import assignments, people, pools, projects, threads
from heedful.store.problems import AnswerProblem

PROMPT_KINDS = {
    "plain": "plain: any task",
    "few_shot": "few-shot: an instruction and several pairs",
    "user_based": "user-based: after the use cases below",
}
MAX_TASKS, MAX_BRIEF_CHARS = 1000, 2000


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    project = "/admin/projects/{project_id}"
    questions = f"{project}/questions"
    app.add_api_route(f"{project}/guidelines", show_guidelines, methods=["GET"])
    app.add_api_route(f"{project}/writing", show_writing, methods=["GET"])
    app.add_api_route(f"{project}/writing", add_writing, methods=["POST"])
    app.add_api_route(f"{project}/writing/responses", add_responses, methods=["POST"])
    app.add_api_route(f"{project}/survey", show_survey, methods=["GET"])
    app.add_api_route(questions, show_threads, methods=["GET"])
    app.add_api_route(f"{questions}/{{assignment_id}}", show_thread, methods=["GET"])
    app.add_api_route(f"{questions}/{{assignment_id}}", answer, methods=["POST"])


def show_guidelines(request: Request, project_id: int, since: int = 0) -> Response:
    """All versions of the guidelines, and what has changed from one to the newest."""
    project = read(request, projects.get, project_id)
    versions = read(request, projects.guideline_history, project_id)
    return render(
        request,
        "guideline_versions.html",
        project=project,
        versions=versions,
        **compared(versions, since or versions[0].number - 1),
    )


def show_writing(request: Request, project_id: int) -> Response:
    """The forms for prompts that labelers are to write."""
    return _writing_page(request, project_id)


def _writing_page(
    request: Request,
    project_id: int,
    *,
    fields: dict[str, str] | None = None,
    said: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    return render(
        request,
        "writing.html",
        status=status,
        project=read(request, projects.get, project_id),
        num_unanswered=len(read(request, pools.unanswered_prompts, project_id)),
        kinds=PROMPT_KINDS,
        fields=fields or {},
        said=said,
        problem=problem,
    )


def add_writing(request: Request, project_id: int) -> Response:
    """Makes tasks to write prompts: so many, or so many for each use case."""
    fields = texts_of(request)
    project = read(request, projects.get, project_id)
    try:
        kind, briefs, number = _asked(fields)
    except Refused as refused:
        return _writing_page(
            request, project_id, fields=fields, problem=str(refused), status=refused.status
        )

    def add(connection: Any) -> None:
        for brief in briefs:
            for _ in range(number):
                pools.add_prompt_task(connection, project, kind, brief=brief)

    write(request, add)
    return _writing_page(request, project_id, said=f"{len(briefs) * number} tasks were made.")


def _asked(fields: dict[str, str]) -> tuple[Any, list[str], int]:
    """(kind, briefs, tasks for each) of the form; Refused where it cannot be."""
    kind, number = fields.get("kind", ""), fields.get("number", "")
    if kind not in PROMPT_KINDS:
        raise Refused(422, "Choose a kind of prompt.")
    if not (number.isascii() and number.isdigit() and 1 <= int(number[:6]) <= MAX_TASKS):
        raise Refused(422, f"The number of prompts is from 1 to {MAX_TASKS}.")
    briefs = [line.strip() for line in fields.get("briefs", "").splitlines() if line.strip()]
    if kind == "user_based" and not briefs:
        raise Refused(422, "User-based prompts need use cases: write one a line.")
    if any(len(brief) > MAX_BRIEF_CHARS or "\x00" in brief for brief in briefs):
        raise Refused(422, f"A use case has {MAX_BRIEF_CHARS:,} characters at most, on one line.")
    briefs = briefs if kind == "user_based" else [""]
    if len(briefs) * int(number) > MAX_TASKS:
        raise Refused(422, f"These are {len(briefs) * int(number):,} tasks: {MAX_TASKS:,} at most.")
    return kind, briefs, int(number)


def add_responses(request: Request, project_id: int) -> Response:
    """Makes a demonstration task for each prompt that a labeler wrote without a response."""
    project = read(request, projects.get, project_id)

    def add(connection: Any) -> int:
        numbers = pools.unanswered_prompts(connection, project_id)[:MAX_TASKS]
        for number in numbers:
            pools.add_demonstration_task(connection, project, number)
        return len(numbers)

    return _writing_page(request, project_id, said=f"{write(request, add)} tasks were made.")


def show_survey(request: Request, project_id: int) -> Response:
    """What labelers say about the work, without names, once enough have answered."""
    answers = read(request, people.survey_answers, project_id)
    return render(
        request,
        "survey_results.html",
        project=read(request, projects.get, project_id),
        num_answers=len(answers),
        min_answers=survey.MIN_ANSWERS,
        results=survey.results(answers),
        comments=survey.comments(answers),
        scale=survey.SCALE,
    )


def show_threads(request: Request, project_id: int) -> Response:
    """All questions of labelers, those without an answer first."""

    def find(connection: Any) -> dict[str, Any]:
        return {
            "project": projects.get(connection, project_id),
            "threads": threads.all_threads(connection, project_id),
            "names": {one.id: one.name for one in people.all_users(connection)},
        }

    return render(request, "questions.html", **read(request, find))


def show_thread(request: Request, project_id: int, assignment_id: str) -> Response:
    """One thread beside the task that it is about, and the form to answer."""
    return _thread_page(request, project_id, assignment_id)


def _thread_page(
    request: Request,
    project_id: int,
    assignment_id: str,
    *,
    text: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    def find(connection: Any) -> dict[str, Any]:
        messages = threads.thread(connection, project_id, assignment_id)
        labeler = threads.labeler_of(connection, project_id, assignment_id)
        work = assignments.view(connection, assignment_id, labeler)
        return {
            "project": projects.get(connection, project_id),
            "prompt": work.prompt or work.brief,
            "outputs": work.outputs,
            "messages": messages,
        }

    return render(
        request,
        "question.html",
        status=status,
        action=f"/admin/projects/{project_id}/questions/{assignment_id}",
        back=f"/admin/projects/{project_id}/questions",
        is_researcher=True,
        text=text,
        problem=problem,
        **read(request, find),
    )


def answer(request: Request, project_id: int, assignment_id: str) -> Response:
    """Keeps a researcher's answer to a question."""
    text, actor = texts_of(request).get("text", ""), user_of(request).id
    now = now_of(request)
    try:
        write(request, threads.answer, project_id, assignment_id, text, actor=actor, now=now)
    except AnswerProblem as problem:
        return _thread_page(
            request, project_id, assignment_id, text=text, problem=str(problem), status=422
        )
    return go(f"/admin/projects/{project_id}/questions/{assignment_id}")
