"""Where labelers disagree, side by side; what researchers decide; gold, which nobody is told of.

An answer that researchers gave measures labelers only where it is gold; a decision about a dispute
is kept beside the answers, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.errors import HeedfulError
from heedful.labeling.pages import go, render
from heedful.labeling.service import Refused, note_of, now_of, read, texts_of, user_of, write
from heedful.store import disputes, history, pools, projects
from heedful.store.disputes import VIEWS, RankingTask
from heedful.store.problems import Conflict, NotFound
from heedful.store.snapshot import labeler_name

LINES = 50
LETTERS = "ABCDEFGHI"


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    own = "/admin/projects/{project_id}/tasks"
    app.add_api_route(own, show, methods=["GET"])
    app.add_api_route(f"{own}/{{task}}", show_task, methods=["GET"])
    app.add_api_route(f"{own}/{{task}}/decision", decide, methods=["POST"])
    app.add_api_route(f"{own}/{{task}}/gold", set_gold, methods=["POST"])
    app.add_api_route(f"{own}/{{task}}/work", clear_gold, methods=["POST"])


def show(request: Request, project_id: int, view: str = "disputed", after: int = 0) -> Response:
    """The ranking tasks: those in dispute, decided, gold, or all."""
    if view not in VIEWS:
        raise NotFound("there is no such list")
    project = read(request, projects.get, project_id)
    lines = read(request, disputes.task_lines, project_id, view, after=after, limit=LINES + 1)
    following = lines[LINES - 1].task_id if len(lines) > LINES else None
    return render(
        request,
        "tasks.html",
        project=project,
        view=view,
        views=VIEWS,
        lines=lines[:LINES],
        following=following,
    )


def show_task(request: Request, project_id: int, task: int) -> Response:
    """One task: every output beside every labeler's rank and rating."""
    return _task_page(request, project_id, task, {})


def _task_page(
    request: Request,
    project_id: int,
    task: int,
    fields: Mapping[str, str],
    *,
    problem: str = "",
    status: int = 200,
) -> Response:
    project = read(request, projects.get, project_id)
    found = read(request, disputes.ranking_task, project_id, task)
    known = found.gold or found.decided or ()
    return render(
        request,
        "task.html",
        status=status,
        project=project,
        task=found,
        names=[labeler_name(project, one.labeler_id) for one in found.answers],
        opposite=disputes.opposite_pairs([one.ranks for one in found.answers]),
        fields=fields or {f"ranks.{place}": str(rank) for place, rank in enumerate(known)},
        letters=LETTERS,
        problem=problem,
    )


def _ranks_of(fields: Mapping[str, str], task: RankingTask) -> list[int]:
    """The researchers' ranks, one for each output in the task's order."""
    ranks = [fields.get(f"ranks.{place}", "") for place in range(len(task.outputs))]
    if not all(len(rank) == 1 and rank in "123456789"[: len(ranks)] for rank in ranks):
        raise Refused(422, "Give every output a rank: 1 is best, the same number is a tie.")
    return [int(rank) for rank in ranks]


def decide(request: Request, project_id: int, task: int) -> Response:
    """Keeps the researchers' ranking of a disputed task."""
    fields, user = texts_of(request), user_of(request)
    found = read(request, disputes.ranking_task, project_id, task)
    try:
        answer = {"ranks": _ranks_of(fields, found)}
        note, now = note_of(request), now_of(request)
        write(request, history.adjudicate, task, answer, note=note, actor=user.id, now=now)
    except HeedfulError as error:
        return _task_page(request, project_id, task, fields, problem=str(error), status=422)
    return go(f"/admin/projects/{project_id}/tasks/{task}")


def set_gold(request: Request, project_id: int, task: int) -> Response:
    """Makes a task gold: everybody is given it now and then, and measured against these ranks."""
    fields, user = texts_of(request), user_of(request)
    found = read(request, disputes.ranking_task, project_id, task)
    try:
        if found.pool == "drift":
            raise Conflict("this task shows drift: the same answers are wanted of it every week")
        answer = {"ranks": _ranks_of(fields, found)}
        write(request, pools.set_gold, task, answer, actor=user.id, now=now_of(request))
    except HeedfulError as error:
        return _task_page(request, project_id, task, fields, problem=str(error), status=422)
    return go(f"/admin/projects/{project_id}/tasks/{task}")


def clear_gold(request: Request, project_id: int, task: int) -> Response:
    """Makes a gold task ordinary work again."""
    read(request, disputes.ranking_task, project_id, task)
    write(request, pools.clear_gold, task, actor=user_of(request).id, now=now_of(request))
    return go(f"/admin/projects/{project_id}/tasks/{task}")
