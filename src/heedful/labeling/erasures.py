"""Taking people's data out: an account with its work, a customer's prompts, one prompt for good.

What was made before cannot be called back, so the page names the snapshots that hold the data, the
folders of these here, and the models below the run directories that were trained on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.labeling.pages import render
from heedful.labeling.service import note_of, now_of, read, service_of, texts_of, user_of, write
from heedful.store import erasure, history, people, projects
from heedful.store.erasure import Erased
from heedful.store.problems import NotFound


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    person, project = "/admin/people/{user_id}/erase", "/admin/projects/{project_id}"
    app.add_api_route(person, show_person, methods=["GET"])
    app.add_api_route(person, erase_person, methods=["POST"])
    app.add_api_route(f"{project}/erasure", show_customer, methods=["GET"])
    app.add_api_route(f"{project}/erasure", erase_customer, methods=["POST"])
    app.add_api_route(f"{project}/quarantine/remove", remove_prompt, methods=["POST"])


def show_person(request: Request, user_id: int) -> Response:
    """What goes with an account, and the form that asks for its address once more."""
    return _person_page(request, user_id, "")


def _person_page(request: Request, user_id: int, problem: str, status: int = 200) -> Response:
    def find(connection: Any) -> dict[str, Any]:
        mine = people.memberships_of(connection, user_id)
        work = [
            (projects.get(connection, one.project_id).name, total.num_submitted)
            for one in mine
            for total in history.totals(connection, one.project_id, labeler_id=user_id)
        ]
        return {"person": people.user(connection, user_id), "work": work}

    found = read(request, find)
    if found["person"].state == "deleted":
        raise NotFound("there is no such account")
    return render(request, "erase_person.html", status=status, problem=problem, **found)


def erase_person(request: Request, user_id: int) -> Response:
    """Deletes an account with all that it has written."""
    actor, person = user_of(request), read(request, people.user, user_id)
    if user_id == actor.id:
        problem = "This is your own account: another admin can erase it."
        return _person_page(request, user_id, problem, 422)
    if people.normal_email(texts_of(request).get("email", "")) != person.email:
        problem = "Type the address of the account: nothing was erased."
        return _person_page(request, user_id, problem, 422)
    erased = write(request, erasure.erase_labeler, user_id, actor=actor.id, now=now_of(request))
    return _done(request, erased, "/admin/people")


def show_customer(request: Request, project_id: int) -> Response:
    """The form to take a customer's prompts out of a project."""
    project = read(request, projects.get, project_id)
    return render(request, "erase_customer.html", project=project, customer="", problem="")


def erase_customer(request: Request, project_id: int) -> Response:
    """Deletes all prompts of a customer in a project, with the answers to them."""
    project = read(request, projects.get, project_id)
    customer = note_of(request, "customer")
    by = {"actor": user_of(request).id, "now": now_of(request)}
    try:
        erased = write(request, erasure.erase_source_user, project_id, customer, **by)
    except NotFound as error:
        return render(
            request,
            "erase_customer.html",
            status=422,
            project=project,
            customer=customer,
            problem=str(error),
        )
    return _done(request, erased, f"/admin/projects/{project_id}")


def remove_prompt(request: Request, project_id: int) -> Response:
    """Deletes a prompt that was flagged, with its outputs and the answers to it."""
    text = texts_of(request).get("prompt", "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
    near = {"state": "quarantined", "after": number - 1, "limit": 1}
    found = read(request, projects.list_prompts, project_id, **near)
    if not found or found[0].id != number:
        raise NotFound("there is no such prompt in quarantine")
    by = {"actor": user_of(request).id, "now": now_of(request)}
    erased = write(request, erasure.erase_prompt, number, **by)
    return _done(request, erased, f"/admin/projects/{project_id}/quarantine")


def _done(request: Request, erased: Erased, back: str) -> Response:
    """What was erased, and what was made with it before."""
    service = service_of(request)
    folders = [
        service.snapshots / str(one.project_id) / one.manifest_sha256 for one in erased.snapshots
    ]
    models: list[Path] = []
    unread = ""
    try:
        models = erasure.checkpoints_with(erased.snapshots, [service.runs])
    except (OSError, ValueError, AttributeError) as error:  # what was erased stays erased
        unread = f"The run directories could not be searched: {type(error).__name__}."
    return render(
        request,
        "erased.html",
        erased=erased,
        exports=sorted(
            (name, sha256) for one in erased.snapshots for sha256, name in one.exports.items()
        ),
        folders=[folder for folder in folders if folder.is_dir()],
        models=models,
        runs=service.runs,
        unread=unread,
        back=back,
    )
