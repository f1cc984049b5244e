"""The pages of researchers: projects, imports, the queue, labelers, invitations, snapshots."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from heedful.errors import HeedfulError
from heedful.labeling import charts, uploads
from heedful.labeling.access import token_hash
from heedful.labeling.figures import NORMAL_FROM
from heedful.labeling.pages import QUESTIONS, go, render
from heedful.labeling.service import (
    Refused,
    form_of,
    now_of,
    read,
    service_of,
    texts_of,
    user_of,
    write,
)
from heedful.records import METADATA_FIELDS, TRUTH_FIELDS
from heedful.store import (
    audit,
    exports,
    history,
    people,
    pools,
    projects,
    screening,
    snapshot,
)
from heedful.store.answers import LabelSchema
from heedful.store.problems import NotFound

DAY_S = 24 * 3600.0
SHOWN_DAYS = 14
INVITATION_S = 72 * 3600.0
COHORTS = ("train", "heldout")
# What can be asked of every output.
ASKED = {"metadata": METADATA_FIELDS, "truth": TRUTH_FIELDS}
# What this page may make of a labeler's state; who is taken on is decided on the page of screening.
MOVES = {"active": ("paused", "screening"), "paused": ("active", "screening")}


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    project = "/admin/projects/{project_id}"
    app.add_api_route("/admin", show_projects, methods=["GET"])
    app.add_api_route("/admin/projects", create_project, methods=["POST"])
    app.add_api_route(project, show_project, methods=["GET"])
    app.add_api_route(f"{project}/import", import_file, methods=["POST"])
    app.add_api_route(f"{project}/settings", change_settings, methods=["POST"])
    app.add_api_route(f"{project}/guidelines", publish_guidelines, methods=["POST"])
    app.add_api_route(f"{project}/labelers", show_labelers, methods=["GET"])
    app.add_api_route(f"{project}/labelers", change_labeler, methods=["POST"])
    app.add_api_route(f"{project}/invitations", invite, methods=["POST"])
    app.add_api_route(
        f"{project}/invitations/{{invitation_id}}/revoke", revoke_invitation, methods=["POST"]
    )
    app.add_api_route(f"{project}/prompts", show_prompt_labels, methods=["GET"])
    app.add_api_route(f"{project}/quarantine", show_quarantine, methods=["GET"])
    app.add_api_route(f"{project}/quarantine", release_prompt, methods=["POST"])
    app.add_api_route(f"{project}/snapshots", make_snapshot, methods=["POST"])
    app.add_api_route(f"{project}/snapshots/{{number}}/{{name}}", download, methods=["GET"])


def show_projects(request: Request) -> Response:
    """All projects, and the form for a new one."""
    return _projects_page(request, {}, "")


def _projects_page(
    request: Request, fields: dict[str, str], problem: str, status: int = 200
) -> Response:
    found = read(request, projects.all_projects)
    return render(
        request, "projects.html", status=status, projects=found, fields=fields, problem=problem
    )


def create_project(request: Request) -> Response:
    """Makes a project with its instructions and questions."""
    fields, user = texts_of(request), user_of(request)
    try:
        mode = fields.get("mode", "")
        if mode not in ("strict", "fast"):
            raise Refused(422, "Choose how the questions are asked: strict or fast.")
        asked = ASKED.get(fields.get("asked", "metadata"))
        if asked is None:
            raise Refused(422, "Choose what is asked: the questions of Table 3, or true or not.")
        project = write(
            request,
            projects.create,
            fields.get("name", "").strip(),
            seed=secrets.token_hex(16),
            settings=_settings(fields, projects.Settings()),
            guideline=fields.get("guideline", ""),
            schema=LabelSchema(mode=mode, rating_flags=asked),
            actor=user.id,
            now=now_of(request),
        )
    except HeedfulError as error:
        return _projects_page(request, fields, str(error), 422)
    return go(f"/admin/projects/{project.id}")


def _settings(fields: dict[str, str], old: projects.Settings) -> projects.Settings:
    """The settings with what the form changes; the form has shares in percent."""
    try:
        given = {
            "overlap_fraction": float(fields.get("overlap_percent", "")) / 100,
            "overlap_n": int(fields.get("overlap_n", "")),
            "heldout_n": int(fields.get("heldout_n", "")),
            "gold_fraction": float(fields.get("gold_percent", "")) / 100,
            "drift_fraction": float(fields.get("drift_percent", "")) / 100,
            "undo_s": float(fields.get("undo_s", "")),
        }
    except ValueError:
        raise Refused(422, "Overlap, gold, drift and undo are numbers.") from None
    kept = {name: getattr(old, name) for name in projects.Settings.__slots__}
    return projects.Settings(**{**kept, **given})


def show_project(request: Request, project_id: int) -> Response:
    """The queue, what was done day by day, and the forms to import and export."""
    return _project_page(request, project_id)


def _project_page(
    request: Request, project_id: int, *, problem: str = "", said: str = "", status: int = 200
) -> Response:
    def find(connection: Any) -> dict[str, Any]:
        return {
            "project": projects.get(connection, project_id),
            "guideline": projects.guideline(connection, project_id),
            "schema": projects.schema(connection, project_id),
            "snapshots": snapshot.all_snapshots(connection, project_id),
            "derived": exports.DERIVED,
            "num_quarantined": len(
                projects.list_prompts(connection, project_id, state="quarantined")
            ),
        }

    found = read(request, find)
    # What somebody has just done is to be seen.
    counted = request.app.state.queues.get(project_id, fresh=bool(problem or said))
    today = int(now_of(request) // DAY_S)
    progress, by_day = counted.value
    days = [(day * DAY_S, by_day.get(day, 0)) for day in range(today, today - SHOWN_DAYS, -1)]
    drawn = [*charts.queue(progress), *charts.throughput(days)]
    suffixes = service_of(request).readers.suffixes
    return render(
        request,
        "admin_project.html",
        status=status,
        problem=problem,
        said=said,
        suffixes=suffixes,
        progress=progress,
        counted=counted,
        charts=drawn,
        **found,
    )


def count_queue(
    connection: Any, project_id: int, now: float
) -> tuple[list[pools.Progress], dict[int, int]]:
    """How far each kind of task has come, and {day: submissions} of the last weeks."""
    since = (int(now // DAY_S) - SHOWN_DAYS) * DAY_S
    by_day = history.per_day(connection, project_id, since=since)
    return pools.progress(connection, project_id), by_day


def import_file(request: Request, project_id: int) -> Response:
    """Adds the rows of an uploaded file, with tasks for them; or none of them, and says why."""
    form, fields, service = form_of(request), texts_of(request), service_of(request)
    sent = form.get("file")
    project = read(request, projects.get, project_id)
    by = {"actor": user_of(request).id, "now": now_of(request)}
    try:
        if not isinstance(sent, UploadFile) or not sent.filename:
            raise Refused(422, "Choose a file.")
        upload = uploads.Upload(sent.filename, sent.file)
        if fields.get("what") in ("completions", "constant"):
            pool = "drift" if fields["what"] == "constant" else "work"
            done = uploads.import_completions(
                service.database, project, upload, service.readers, pool=pool, **by
            )
        else:
            make_tasks = bool(fields.get("make_tasks"))
            done = uploads.import_prompts(
                service.database, project, upload, service.readers, make_tasks=make_tasks, **by
            )
    except HeedfulError as error:
        return _project_page(request, project_id, problem=str(error), status=422)
    said = f"{done.num_prompts:,} prompts were read, {done.num_tasks:,} tasks were made."
    return _project_page(request, project_id, said=said)


def change_settings(request: Request, project_id: int) -> Response:
    """Puts new settings to work at once; also closes a project, or opens it again."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)
    project = read(request, projects.get, project_id)
    try:
        settings = _settings(fields, project.settings)
        write(request, pools.change_settings, project_id, settings, actor=user.id, now=now)
    except HeedfulError as error:
        return _project_page(request, project_id, problem=str(error), status=422)
    is_closed = bool(fields.get("closed"))
    if is_closed != (project.closed_at is not None):
        write(request, projects.set_closed, project_id, is_closed, actor=user.id, now=now)
    return go(f"/admin/projects/{project_id}")


def publish_guidelines(request: Request, project_id: int) -> Response:
    """Publishes a new version of the instructions; labelers see what has changed."""
    fields = texts_of(request)
    read(request, projects.get, project_id)
    write(
        request,
        projects.publish_guideline,
        project_id,
        fields.get("text", ""),
        fields.get("changes", "")[:2000],
        actor=user_of(request).id,
        now=now_of(request),
    )
    return go(f"/admin/projects/{project_id}")


def show_labelers(request: Request, project_id: int) -> Response:
    """Who works here, how much, how well they agree; invitations."""
    return _labelers_page(request, project_id)


def _labelers_page(
    request: Request, project_id: int, *, link: str = "", problem: str = "", status: int = 200
) -> Response:
    now = now_of(request)

    def find(connection: Any) -> dict[str, Any]:
        members = people.members(connection, project_id)
        here = {one.user_id for one in members}
        everybody = people.all_users(connection, role="labeler")
        return {
            "project": projects.get(connection, project_id),
            "members": members,
            "names": {one.id: one for one in people.all_users(connection)},
            "others": [one for one in everybody if one.id not in here],
            "invitations": [
                one
                for one in people.open_invitations(connection, now=now)
                if one.project_id in (project_id, None)
            ],
            "has_screening": bool(screening.items(connection, project_id)),
        }

    found = read(request, find)  # the first, since it knows whether there is such a project
    shown = request.app.state.figures.get(project_id)
    counted = request.app.state.totals.get(project_id)
    names = {number: one.name for number, one in found["names"].items()}
    return render(
        request,
        "labelers.html",
        status=status,
        link=link,
        problem=problem,
        cohorts=COHORTS,
        moves=MOVES,
        shown=shown,
        totals={one.labeler_id: one for one in counted.value},
        counted=counted,
        normal_from=NORMAL_FROM,
        most_shown=charts.MOST_LABELERS,
        charts=[] if shown.figures is None else charts.of_labelers(shown.figures, names),
        **found,
    )


def change_labeler(request: Request, project_id: int) -> Response:
    """Brings a labeler into the project; pauses, resumes or screens one who is there."""
    fields, actor, now = texts_of(request), user_of(request).id, now_of(request)
    labeler = _whole_number(fields.get("user_id", ""))
    state, cohort = fields.get("state", ""), fields.get("cohort", "")
    known, member = read(request, people.user, labeler), None
    if state:
        member = read(request, people.membership, project_id, labeler)
    if member is not None and state in MOVES.get(member.state, ()):
        write(
            request,
            people.change_membership,
            project_id,
            labeler,
            state=state,
            actor=actor,
            now=now,
        )
    elif not state and cohort in COHORTS and known.role == "labeler":
        read(request, projects.get, project_id)
        write(request, people.join, project_id, labeler, cohort, actor=actor, now=now)
    else:
        raise Refused(422, "Choose a labeler, and a cohort or a state.")
    return go(f"/admin/projects/{project_id}/labelers")


def invite(request: Request, project_id: int) -> Response:
    """Makes an invitation and shows its link, once: only its hash is kept."""
    fields, user, now = texts_of(request), user_of(request), now_of(request)
    role, cohort = fields.get("role", "labeler"), fields.get("cohort", "train")
    email = people.normal_email(fields.get("email", ""))
    allowed = ("labeler", "reviewer", "researcher") if user.role == "admin" else ("labeler",)
    problem = ""
    if not 3 <= len(email) <= 254 or "@" not in email[1:-1]:
        problem = "Give an e-mail address."
    elif role not in allowed or cohort not in COHORTS:
        problem = "Choose a role that you may give, and a cohort."
    elif read(request, people.user_by_email, email) is not None:
        problem = "This address has an account: bring it into the project below."
    if problem:
        return _labelers_page(request, project_id, problem=problem, status=422)
    read(request, projects.get, project_id)
    token = secrets.token_urlsafe(32)
    write(
        request,
        people.invite,
        email,
        role,
        token_sha256=token_hash(token),
        project_id=project_id if role == "labeler" else None,
        cohort=cohort,
        expires_at=now + INVITATION_S,
        actor=user.id,
        now=now,
    )
    return _labelers_page(request, project_id, link=f"{service_of(request).url}/invitation/{token}")


def revoke_invitation(request: Request, project_id: int, invitation_id: int) -> Response:
    """Takes an invitation back."""
    actor = user_of(request).id
    write(request, people.revoke_invitation, invitation_id, actor=actor, now=now_of(request))
    return go(f"/admin/projects/{project_id}/labelers")


def show_prompt_labels(request: Request, project_id: int) -> Response:
    """What labelers say of the prompts: use cases, and what was ticked."""
    project = read(request, projects.get, project_id)
    shown = request.app.state.prompt_summaries.get(project_id)
    drawn = [] if shown.figures is None else charts.of_prompts(shown.figures, QUESTIONS)
    return render(request, "prompt_labels.html", project=project, shown=shown, charts=drawn)


def show_quarantine(request: Request, project_id: int) -> Response:
    """The prompts that labelers have flagged: neither given out nor exported."""

    def find(connection: Any) -> dict[str, Any]:
        return {
            "project": projects.get(connection, project_id),
            "prompts": projects.list_prompts(connection, project_id, state="quarantined"),
        }

    return render(request, "quarantine.html", **read(request, find))


def release_prompt(request: Request, project_id: int) -> Response:
    """Puts a prompt from quarantine back to work."""
    number = _whole_number(texts_of(request).get("prompt", ""))
    found = read(
        request, projects.list_prompts, project_id, state="quarantined", after=number - 1, limit=1
    )
    if not found or found[0].id != number:
        raise NotFound("there is no such prompt in quarantine")
    write(request, projects.release, number, actor=user_of(request).id, now=now_of(request))
    return go(f"/admin/projects/{project_id}/quarantine")


def make_snapshot(request: Request, project_id: int) -> Response:
    """Freezes what people have answered as files that train; named by the hash of its manifest."""
    fields, actor, now = texts_of(request), user_of(request).id, now_of(request)
    home = service_of(request).snapshots / str(project_id)
    partial = home / f"partial-{secrets.token_hex(8)}"
    query = snapshot.Query(heldout=bool(fields.get("heldout")), shared=bool(fields.get("shared")))
    try:
        written = read(request, snapshot.write, project_id, partial, query)
        # First into the store: it refuses where somebody's data were erased in the meantime.
        write(request, snapshot.note, written, actor=actor, now=now)
        target = home / written.manifest_sha256
        if not target.exists():
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return go(f"/admin/projects/{project_id}#snapshots")


def download(request: Request, project_id: int, number: int, name: str) -> Response:
    """One file of a snapshot, or one made of it: pairs, consensus, Parquet."""
    found = read(request, snapshot.all_snapshots, project_id)
    for one in found:
        own = {*one.files, snapshot.MANIFEST}
        if one.id == number and name in own | exports.DERIVED.keys():
            folder: Path = service_of(request).snapshots / str(project_id) / one.manifest_sha256
            if not (folder / snapshot.MANIFEST).is_file():
                break  # made by the command line, elsewhere
            path = folder / name if name in own else exports.derived(folder, name)
            by = {"actor": user_of(request).id, "now": now_of(request)}
            if name not in own:
                sha256 = exports.file_sha256(path)
                write(request, snapshot.note_export, number, name, sha256, **by)
            write(request, audit.record, "download", f"snapshot/{number}", **by)
            return FileResponse(path, filename=name, media_type="application/octet-stream")
    raise NotFound("there is no such file")


def _whole_number(text: str) -> int:
    """The number in a form field; NotFound where it is none, as for a number that is not there."""
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise NotFound("no such number")
    return int(text)
