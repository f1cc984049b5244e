"""A service on a fresh store, and browsers that speak to it as a plain form would, no script."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from heedful.commands.label import read_completions
from heedful.data.formats import read_prompts
from heedful.labeling.app import create_app
from heedful.labeling.auth import hash_password
from heedful.labeling.service import Readers, Service
from heedful.records import METADATA_FIELDS
from heedful.store import people, projects
from heedful.store.database import open_database

PASSWORD = "seven quiet herons"
HASHED = hash_password(PASSWORD)
START = 1_700_000_000.0
URL = "http://label.test"


class Page(HTMLParser):
    """The forms, links and shown text of a page."""

    def __init__(self, response: httpx.Response):
        super().__init__()
        self.response, self.status, self.path = response, response.status_code, response.url.path
        self.html = response.text
        self.forms: list[SimpleNamespace] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._textarea: str | None = None
        self._select: str | None = None
        if "html" in response.headers.get("content-type", ""):
            self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        name = given.get("name")
        if tag == "form":
            action = given.get("action") or (self.path if "method" in given else "")
            self.forms.append(SimpleNamespace(action=action, fields={}))
        elif tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        elif tag == "input" and name and "form" not in given:
            is_choice = given.get("type") in ("radio", "checkbox")
            if not is_choice or "checked" in given:
                self.forms[-1].fields[name] = given.get("value") or ""
        elif tag == "textarea" and name:
            self._textarea = name
            self.forms[-1].fields[name] = ""
        elif tag == "select" and name:
            self._select = name
        elif tag == "option" and self._select and "value" in given:
            fields = self.forms[-1].fields
            if "selected" in given or self._select not in fields:
                fields[self._select] = given["value"] or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = None
        elif tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._textarea:
            self.forms[-1].fields[self._textarea] += data

    def form(self, action: str) -> dict[str, str]:
        """The fields of the form that goes there, filled in as the page has them."""
        (found,) = [form for form in self.forms if form.action == action]
        # A browser drops the first line end of a textarea and sends CR LF for the others.
        return {
            name: value.removeprefix("\n").replace("\n", "\r\n")
            for name, value in found.fields.items()
        }


class Browser:
    """One person's browser: cookies, redirects, and the headers of a form of the same site."""

    def __init__(self, app: Any, address: str = "10.0.0.1"):
        self.app, self.address, self.cookies = app, address, httpx.Cookies()

    def send(self, method: str, path: str, **more: Any) -> Page:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.address, 1))
            async with httpx.AsyncClient(
                transport=transport, base_url=URL, cookies=self.cookies, follow_redirects=True
            ) as client:
                response = await client.request(method, path, **more)
                self.cookies = client.cookies
                return response

        return Page(asyncio.run(go()))

    def get(self, path: str) -> Page:
        return self.send("GET", path)

    def post(self, path: str, data: dict[str, Any], **more: Any) -> Page:
        return self.send("POST", path, data=data, headers={"Origin": URL}, **more)

    def submit(self, page: Page, action: str, *, to: str = "", **changes: Any) -> Page:
        """Sends a form of a page with some fields changed; ``to`` is a button's own address."""
        given = {name.replace("__", "."): value for name, value in changes.items()}
        return self.post(to or action, {**page.form(action), **given})

    def log_in(self, email: str, password: str = PASSWORD) -> Page:
        return self.submit(self.get("/login"), "/login", email=email, password=password)


class House(SimpleNamespace):
    """What the fixture of this name has made, and shorthands for what every story does."""

    def load(self, content: bytes, what: str = "completions", name: str = "rows.jsonl") -> Page:
        """An upload by the admin; the page that comes back."""
        ada, path = self.browser("ada"), f"/admin/projects/{self.project.id}"
        fields = ada.get(path).form(f"{path}/import") | {"what": what}
        fields.pop("file", None)
        return ada.post(f"{path}/import", fields, files={"file": (name, content)})

    def begin(self, browser: Browser, kind: str) -> Page:
        """The page of the labeler's next task."""
        path = f"/projects/{self.project.id}"
        forms = browser.get(path).forms
        (fields,) = [form.fields for form in forms if form.fields.get("kind") == kind]
        return browser.post(f"{path}/next", fields)

    def ranked(self, ranks: Sequence[int], ratings: Sequence[int]) -> dict[str, str]:
        """The fields of a whole answer in strict mode, by the places on the page."""
        fields = {}
        for place, (rank, rating) in enumerate(zip(ranks, ratings, strict=True)):
            fields |= {f"ranks.{place}": str(rank), f"ratings.{place}": str(rating)}
            fields |= {f"ratings.{place}.{flag}": "no" for flag in METADATA_FIELDS}
        return fields


@pytest.fixture
def house(tmp_path, address):
    """A running service with an admin and one project, "first", and a clock that a test moves."""
    database = open_database(address, now=START)
    clock = SimpleNamespace(now=START)
    readers = Readers(
        prompts=lambda path: read_prompts(str(path)),
        completions=read_completions,
        suffixes=(".jsonl", ".csv"),
    )
    service = Service(
        database,
        URL,
        readers,
        tmp_path / "snapshots",
        lambda: clock.now,
        second_factor=frozenset(),  # the tests of it ask for it themselves
        runs=tmp_path / "runs",
    )
    settings = projects.Settings(overlap_fraction=0.0, gold_fraction=0.0, drift_fraction=0.0)

    def fill(connection: Any) -> Any:
        admin = people.add_user(
            connection, "ada@example.org", "Ada", "admin", HASHED, actor=None, now=START
        )
        project = projects.create(
            connection,
            "first",
            seed="CANARY-seed",
            settings=settings,
            guideline="Be kind.",
            actor=admin.id,
            now=START,
        )
        return project, admin

    project, admin = database.write(fill)
    app = create_app(service)

    def person(name: str, role: str = "labeler", cohort: str = "train") -> int:
        def add(connection: Any) -> int:
            one = people.add_user(
                connection, f"{name}@example.org", name, role, HASHED, actor=admin.id, now=START
            )
            if role == "labeler":
                people.join(connection, project.id, one.id, cohort, actor=admin.id, now=START)
            return one.id

        return database.write(add)

    def browser(name: str) -> Browser:
        one = Browser(app)
        assert one.log_in(f"{name}@example.org").status == 200
        return one

    yield House(
        app=app,
        database=database,
        service=service,
        clock=clock,
        project=project,
        person=person,
        browser=browser,
        stranger=lambda address="10.0.0.1": Browser(app, address),
        snapshots=tmp_path / "snapshots",
        runs=tmp_path / "runs",
    )
    database.close()


@pytest.fixture
def completions_file() -> bytes:
    """Two prompts with three completions, with names in it that no labeler may ever see."""
    path = Path(__file__).with_name("completions.jsonl")
    return path.read_bytes()
