"""The record of who did what, for researchers: page by page, and whether it is still whole."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from heedful.labeling.pages import render
from heedful.labeling.service import read
from heedful.store import audit, people

LINES = 100


def add_routes(app: FastAPI) -> None:
    """Adds the pages of this module."""
    app.add_api_route("/admin/audit", show, methods=["GET"])
    app.add_api_route("/admin/audit/check", check, methods=["POST"])


def show(request: Request, before: int | None = None, object: str = "") -> Response:
    """The newest entries, or those before a number; all, or those of one object."""
    return _page(request, before, object, "")


def _page(request: Request, before: int | None, object: str, said: str) -> Response:
    def find(connection: Any) -> dict[str, Any]:
        found = audit.entries(connection, before=before, object=object or None, limit=LINES)
        return {
            "entries": [(one, json.dumps(one.detail, ensure_ascii=False)) for one in found],
            "names": {one.id: one.name for one in people.all_users(connection)},
            "following": found[-1].seq if len(found) == LINES else None,
        }

    return render(request, "audit.html", object=object, said=said, **read(request, find))


def check(request: Request) -> Response:
    """Reads the whole record and says whether a row was changed or taken out."""
    broken = read(request, audit.verify)
    said = "The record is whole: every entry is as it was written."
    if broken is not None:
        said = f"Entry {broken} is not as it was written, or one before it was taken out."
    return _page(request, None, "", said)
