"""The screening test as researchers make and judge it: items, candidates without names, decisions.

The paper's cut-offs (B.1) are soft: the page shows them beside each candidate's figures, and people
decide. Reviewers give their scores before they see those of others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from fastapi import FastAPI
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from heedful.errors import DataError, HeedfulError
from heedful.labeling import quality
from heedful.labeling.pages import go, render
from heedful.labeling.service import (
    Refused,
    form_of,
    note_of,
    now_of,
    read,
    texts_of,
    user_of,
    write,
)
from heedful.statistics.pairs import Ranked
from heedful.store import projects, screening
from heedful.store.problems import AnswerProblem, NotFound
from heedful.store.screening import Candidate, Item, ScreeningAnswer

MAX_LINE_BYTES = 1_000_000
MAX_ITEMS = 2_000
# What a test needs for 75 % to be told from 66 %: labeling by chance alone varies that much.
ENOUGH = {"flags": 60, "pairs": 100}
SENSITIVE = (
    "Is this sensitive: toxic, sexual, violent, judgmental, political, or otherwise likely to "
    "cause strong negative feelings?"
)
TOPICS = "For which topics or groups of people can you tell well what is sensitive?"


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    own = "/admin/projects/{project_id}/screening"
    app.add_api_route(own, show, methods=["GET"])
    app.add_api_route(f"{own}/items", add_item, methods=["POST"])
    app.add_api_route(f"{own}/items/import", import_items, methods=["POST"])
    app.add_api_route(f"{own}/items/{{item_id}}/drop", drop_item, methods=["POST"])
    app.add_api_route(f"{own}/{{code}}", show_candidate, methods=["GET"])
    app.add_api_route(f"{own}/{{code}}/grades", grade, methods=["POST"])
    app.add_api_route(f"{own}/{{code}}/decision", decide, methods=["POST"])


def criteria(answers: Sequence[ScreeningAnswer]) -> dict[str, quality.Criterion]:
    """The measured criteria of one candidate's answers; ungraded demonstrations are left out."""
    flags, rankings, reference, scores = [], [], {}, []
    for one in answers:
        if one.kind == "flags":
            flags += [(one.answer[name], value) for name, value in one.truth.items()]
        elif one.kind == "ranking":
            item = str(one.item_id)
            reference[item] = {str(place): rank for place, rank in enumerate(one.truth)}
            given = {str(place): rank for place, rank in enumerate(one.answer)}
            rankings.append(Ranked(item, "", given))
        elif one.scores:
            scores.append(sum(one.scores) / len(one.scores))
    return quality.screening(flags, rankings, reference, scores)


def show(request: Request, project_id: int) -> Response:
    """The candidates with their figures, the items, and the forms for more."""
    return _page(request, project_id)


def _page(
    request: Request,
    project_id: int,
    *,
    problem: str = "",
    said: str = "",
    status: int = 200,
    fields: Mapping[str, str] | None = None,
) -> Response:
    def find(connection: Any) -> dict[str, Any]:
        project = projects.get(connection, project_id)
        given: dict[int, list[ScreeningAnswer]] = {}
        for one in screening.answers(connection, project_id):
            given.setdefault(one.user_id, []).append(one)
        return {
            "project": project,
            "items": screening.items(connection, project_id),
            "candidates": [
                (one, criteria(given.get(one.user_id, ())))
                for one in screening.candidates(connection, project)
            ],
        }

    found = read(request, find)
    return render(
        request,
        "screening_admin.html",
        status=status,
        problem=problem,
        said=said,
        fields=fields or {},
        cutoffs=quality.CUTOFFS,
        sizes=_sizes(found["items"]),
        enough=ENOUGH,
        sensitive=SENSITIVE,
        topics=TOPICS,
        max_outputs=screening.MAX_OUTPUTS,
        **found,
    )


def _sizes(items: Sequence[Item]) -> dict[str, int]:
    """How many questions about sensitive texts, and pairs of outputs in order, the test asks."""
    ranks = [item.truth for item in items if item.kind == "ranking"]
    pairs = [
        one[a] != one[b] for one in ranks for a in range(len(one)) for b in range(a + 1, len(one))
    ]
    num_flags = sum(len(item.truth) for item in items if item.kind == "flags")
    return {"flags": num_flags, "pairs": sum(pairs)}


def add_item(request: Request, project_id: int) -> Response:
    """Adds one item out of the form; several questions about one text come by file."""
    fields, by = texts_of(request), {"actor": user_of(request).id, "now": now_of(request)}
    read(request, projects.get, project_id)
    try:
        kind, content, truth = _item_of(fields)
        write(request, screening.add_item, project_id, kind, content, truth, **by)
    except HeedfulError as error:
        return _page(request, project_id, problem=str(error), status=422, fields=fields)
    return go(f"/admin/projects/{project_id}/screening#items")


def _item_of(fields: Mapping[str, str]) -> tuple[Any, dict[str, Any], Any]:
    """(kind, content, truth) of the form for one item."""
    kind, prompt = fields.get("kind", ""), fields.get("prompt", "")
    if kind == "flags":
        question = fields.get("question", "").strip() or SENSITIVE
        if fields.get("truth") not in ("yes", "no"):
            raise Refused(422, "Say what the right answer is: yes or no.")
        content = {"prompt": prompt, "output": fields.get("output") or None}
        return kind, content | {"questions": [question]}, {question: fields["truth"] == "yes"}
    if kind == "ranking":
        places = range(screening.MAX_OUTPUTS)
        given = [(fields.get(f"output.{i}", ""), fields.get(f"rank.{i}", "")) for i in places]
        outputs = [(text, rank) for text, rank in given if text.strip()]
        if not all(rank in "123456789" and len(rank) == 1 for _, rank in outputs):
            raise Refused(422, "Give every output a rank: 1 is best, the same number is a tie.")
        ranks = [int(rank) for _, rank in outputs]
        return kind, {"prompt": prompt, "outputs": [text for text, _ in outputs]}, ranks
    if kind == "topics":
        return kind, {"question": fields.get("question", "").strip() or TOPICS}, None
    return kind, {"prompt": prompt}, None


def import_items(request: Request, project_id: int) -> Response:
    """Adds the items of a JSONL file: all of them, or none and what is wrong with which line."""
    sent, by = form_of(request).get("file"), {"actor": user_of(request).id, "now": now_of(request)}
    read(request, projects.get, project_id)
    try:
        if not isinstance(sent, UploadFile) or not sent.filename:
            raise Refused(422, "Choose a file.")
        rows = list(read_items(sent.file))

        def add(connection: Any) -> None:
            for kind, content, truth in rows:
                screening.add_item(connection, project_id, kind, content, truth, **by)

        write(request, add)
    except HeedfulError as error:
        return _page(request, project_id, problem=str(error), status=422)
    return _page(request, project_id, said=f"{len(rows):,} items were added.")


def read_items(lines: BinaryIO) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """(kind, content, truth) of every line of a JSONL file; DataError names a line that is none."""
    number = 0
    while line := lines.readline(MAX_LINE_BYTES):
        number += 1
        if number > MAX_ITEMS:
            raise DataError(f"the file has more than {MAX_ITEMS:,} items: nobody answers so many")
        try:
            row = json.loads(line) if line.strip() else None
            if row is None:
                continue
            if not isinstance(row, dict):
                raise AnswerProblem("the line", 'has to be {"kind", "content", "truth"}')
            screening.check_item(row.get("kind", ""), row.get("content"), row.get("truth"))
        except (ValueError, RecursionError, AnswerProblem) as error:
            raise DataError(f"line {number}: {error}") from error
        yield row["kind"], row["content"], row.get("truth")


def drop_item(request: Request, project_id: int, item_id: int) -> Response:
    """Removes an item that nobody has answered."""
    if item_id not in [item.id for item in read(request, screening.items, project_id)]:
        raise NotFound("there is no such item")
    write(request, screening.drop_item, item_id, actor=user_of(request).id, now=now_of(request))
    return go(f"/admin/projects/{project_id}/screening#items")


def _candidate(request: Request, project_id: int, code: str) -> tuple[projects.Project, Candidate]:
    project = read(request, projects.get, project_id)
    for one in read(request, screening.candidates, project):
        if one.code == code:
            return project, one
    raise NotFound("there is no such candidate")


def show_candidate(request: Request, project_id: int, code: str) -> Response:
    """All answers of a candidate beside the researchers', to be graded and decided about."""
    return _candidate_page(request, project_id, code)


def _candidate_page(
    request: Request, project_id: int, code: str, *, problem: str = "", status: int = 200
) -> Response:
    project, candidate = _candidate(request, project_id, code)
    given = read(request, screening.answers, project_id, user_id=candidate.user_id)
    return render(
        request,
        "candidate.html",
        status=status,
        project=project,
        candidate=candidate,
        answers=given,
        found=criteria(given),
        cutoffs=quality.CUTOFFS,
        own=read(request, screening.own_grades, project_id, user_of(request).id),
        problem=problem,
    )


def grade(request: Request, project_id: int, code: str) -> Response:
    """Keeps this reviewer's scores of the candidate's demonstrations."""
    _, candidate = _candidate(request, project_id, code)
    fields, user, now = texts_of(request), user_of(request), now_of(request)
    given = read(request, screening.answers, project_id, user_id=candidate.user_id)
    own = [one.id for one in given if one.kind == "demonstration"]
    scores = {answer: fields.get(f"score.{answer}", "") for answer in own}

    def keep(connection: Any) -> None:
        for answer, score in scores.items():
            if score in "1234567" and len(score) == 1:
                screening.grade(connection, answer, user.id, int(score), now=now)

    write(request, keep)
    return go(f"/admin/projects/{project_id}/screening/{code}")


def decide(request: Request, project_id: int, code: str) -> Response:
    """Takes the candidate on, or not; a decision can be changed later."""
    _, candidate = _candidate(request, project_id, code)
    fields = texts_of(request)
    decision = fields.get("decision", "")
    if candidate.state == "screening":
        problem = "This candidate has not handed the test in yet."
        return _candidate_page(request, project_id, code, problem=problem, status=409)
    if decision not in ("accept", "reject"):
        problem = "Choose: take on, or not."
        return _candidate_page(request, project_id, code, problem=problem, status=422)
    write(
        request,
        screening.decide,
        project_id,
        candidate.user_id,
        accept=decision == "accept",
        note=note_of(request),
        actor=user_of(request).id,
        now=now_of(request),
    )
    return go(f"/admin/projects/{project_id}/screening")
