"""The screening test as candidates take it (paper, B.1): one item a page, handed in as a whole.

What researchers have answered never comes near these pages: a ``Question`` does not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.labeling.annotate import member
from heedful.labeling.pages import go, render
from heedful.labeling.service import now_of, read, texts_of, user_of, write
from heedful.store import people, screening
from heedful.store.problems import AnswerProblem, NotFound
from heedful.store.projects import Project
from heedful.store.screening import Question

LETTERS = "ABCDEFGHI"


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    own = "/projects/{project_id}/screening"
    app.add_api_route(own, show, methods=["GET"])
    app.add_api_route(own, hand_in, methods=["POST"])
    app.add_api_route(f"{own}/{{item_id}}", show_item, methods=["GET"])
    app.add_api_route(f"{own}/{{item_id}}", answer_item, methods=["POST"])


def show(request: Request, project_id: int) -> Response:
    """What the test asks, what is answered, and the way to hand it in."""
    return _overview(request, project_id, "")


def _overview(request: Request, project_id: int, problem: str, status: int = 200) -> Response:
    project, user = member(request, project_id), user_of(request)
    found = read(request, screening.questions, project_id, user.id)
    waiting = [one.id for one in found if one.answer is None]
    return render(
        request,
        "screening.html",
        status=status,
        project=project,
        state=read(request, people.membership, project_id, user.id).state,
        questions=found,
        waiting=waiting,
        problem=problem,
    )


def hand_in(request: Request, project_id: int) -> Response:
    """Hands the test in; where an item is open, says so."""
    member(request, project_id)
    try:
        write(request, screening.finish, project_id, user_of(request).id, now=now_of(request))
    except AnswerProblem:
        problem = "There are items without an answer."
        return _overview(request, project_id, problem, status=422)
    return go(f"/projects/{project_id}/screening")


def show_item(request: Request, project_id: int, item_id: int) -> Response:
    """One item, with the answer that is kept of it so far."""
    project = member(request, project_id)
    state = read(request, people.membership, project_id, user_of(request).id).state
    if state != "screening":
        return go(f"/projects/{project_id}/screening")
    found, place = _question(request, project_id, item_id)
    fields = _fields_of(found[place], _order(project, found[place]))
    return _item_page(request, project, found, place, fields)


def _question(request: Request, project_id: int, item_id: int) -> tuple[list[Question], int]:
    """All items of the test, and the place of one among them."""
    found = read(request, screening.questions, project_id, user_of(request).id)
    for place, question in enumerate(found):
        if question.id == item_id:
            return found, place
    raise NotFound("there is no such item")


def _order(project: Project, question: Question) -> list[int]:
    if question.kind != "ranking":
        return []
    return screening.shown_order(project, question.id, len(question.content["outputs"]))


def _item_page(
    request: Request,
    project: Project,
    found: list[Question],
    place: int,
    fields: Mapping[str, str],
    *,
    problem: str = "",
    status: int = 200,
) -> Response:
    question = found[place]
    outputs = question.content.get("outputs", ())
    return render(
        request,
        "screening_item.html",
        status=status,
        project=project,
        question=question,
        number=place + 1,
        num_items=len(found),
        before=found[place - 1].id if place else None,
        outputs=[outputs[one] for one in _order(project, question)],
        letters=LETTERS,
        fields=fields,
        problem=problem,
    )


def answer_item(request: Request, project_id: int, item_id: int) -> Response:
    """Keeps an answer and goes to the next open item; for our script, says that it is kept."""
    project, fields, now = member(request, project_id), texts_of(request), now_of(request)
    found, place = _question(request, project_id, item_id)
    question = found[place]
    try:
        given = _answer_of(question, fields, _order(project, question))
        write(request, screening.answer, item_id, user_of(request).id, given, now=now)
    except AnswerProblem as error:
        problem = f"This is not complete: {error}"
        return _item_page(request, project, found, place, fields, problem=problem, status=422)
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"saved_at": now})
    following = [*found[place + 1 :], *found[:place]]
    still_open = [one.id for one in following if one.answer is None]
    target = f"/projects/{project_id}/screening"
    return go(f"{target}/{still_open[0]}" if still_open else target)


def _fields_of(question: Question, order: list[int]) -> dict[str, str]:
    """The form of an answer that is kept: flags.0 is yes or no, ranks.0 a number, text a text."""
    if question.answer is None:
        return {}
    if question.kind == "flags":
        asked = question.content["questions"]
        return {
            f"flags.{i}": "yes" if question.answer[name] else "no" for i, name in enumerate(asked)
        }
    if question.kind == "ranking":
        return {f"ranks.{i}": str(question.answer[output]) for i, output in enumerate(order)}
    return {"text": question.answer}


def _answer_of(question: Question, fields: Mapping[str, str], order: list[int]) -> Any:
    """The answer of a form, in the form that the store checks."""
    if question.kind == "flags":
        given = {
            name: fields.get(f"flags.{i}") for i, name in enumerate(question.content["questions"])
        }
        return {name: value == "yes" for name, value in given.items() if value in ("yes", "no")}
    if question.kind == "ranking":
        ranks = [0] * len(order)
        for place, output in enumerate(order):
            text = fields.get(f"ranks.{place}", "")
            ranks[output] = int(text) if text in "123456789" and len(text) == 1 else 0
        return ranks
    return fields.get("text", "")
