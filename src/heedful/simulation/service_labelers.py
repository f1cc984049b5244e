"""Simulated labelers at the front door: they accept an invitation, take the test, and label.

A person here is a browser without a script: it reads pages, fills in the forms that stand on them,
and sends each again with the same key when the network fails. It knows the hidden task behind a
prompt by the prompt's text, since nothing else is on a page.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx

from heedful.errors import DataError
from heedful.simulation.labelers import SimulatedLabeler, rank
from heedful.simulation.responses import write_demonstration
from heedful.simulation.tasks import Task
from heedful.simulation.world import World

RETRY_S, LONGEST_WAIT_S, TIMEOUT_S = 0.5, 10.0, 60.0
_YES_NO = {True: "yes", False: "no"}
TOPICS_ANSWER = "What is said about the species of this world."


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What simulated labelers bring along, all of it found by the texts that a page shows."""

    world: World
    tasks: dict[str, tuple[str, Task]]  # prompt -> (its id, its hidden task)
    is_cut: frozenset[tuple[str, str]] = frozenset()  # (prompt, output) that broke off
    noise_scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """How a labeler gets in: the token of the invitation, and the password they choose."""

    labeler: str
    email: str
    token: str
    password: str


class Page(HTMLParser):
    """The forms of a page with what stands in them, its links, the prompt and the outputs."""

    def __init__(self, response: httpx.Response):
        super().__init__()
        self.status, self.path = response.status_code, response.url.path
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.links: list[str] = []
        self.prompt, self.outputs = "", list[str]()
        self.alert = ""
        self._into, self._text = "", ""
        self.feed(response.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "form":
            found = dict(attrs)
            self.forms.append((found.get("action") or self.path, {}))
        elif tag == "input":
            found = dict(attrs)
            if found.get("type") == "hidden" and found.get("name"):
                self.forms[-1][1][str(found["name"])] = found.get("value") or ""
        elif tag == "a":
            self.links.append(dict(attrs).get("href") or "")
        elif tag == "div":
            self._begin(dict(attrs))

    def _begin(self, found: dict[str, str | None]) -> None:
        classes = (found.get("class") or "").split()
        if "answer" in classes or found.get("aria-labelledby") == "output-title":
            self._into = "output"
        elif found.get("aria-labelledby") == "prompt-title":
            self._into = "prompt"
        elif "alert" in classes:
            self._into = "alert"
        self._text = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._into:
            if self._into == "output":
                self.outputs.append(self._text)
            elif self._into == "prompt":
                self.prompt = self._text
            else:
                self.alert = " ".join(self._text.split())
            self._into = ""

    def handle_data(self, data: str) -> None:
        if self._into:
            self._text += data

    def form(self, end: str) -> tuple[str, dict[str, str]]:
        """(address, hidden fields) of the form whose address ends so."""
        for action, fields in self.forms:
            if action.endswith(end):
                return action, fields
        raise DataError(f"{self.path} ({self.status}) has no form for {end}: {self.alert}")


@dataclass(slots=True)
class Person:
    """One simulated labeler with a browser."""

    url: str
    account: Account
    labeler: SimulatedLabeler
    knowledge: Knowledge
    num_done: int = 0
    browser: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Origin": self.url, "Accept": "text/html"}
        self.browser = httpx.Client(
            base_url=self.url,
            headers=headers,
            follow_redirects=True,
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def close(self) -> None:
        """Closes the browser."""
        self.browser.close()

    def enter(self) -> None:
        """Accepts the invitation, or logs in where that was done before."""
        address = f"/invitation/{self.account.token}"
        page = self._get(address)
        if page.status == 200:
            words = self.account.password
            given = {"name": self.account.labeler, "password": words, "again": words}
            page = self._post(address, page.form(address)[1] | given)
            if page.path == "/":
                return
        given = {"email": self.account.email, "password": self.account.password}
        page = self._post("/login", self._get("/login").form("/login")[1] | given)
        if page.path != "/":
            raise DataError(f"{self.account.labeler} could not log in: {page.alert}")

    def take_test(self, project: int) -> None:
        """Answers every item of the screening test of a project, and hands it in."""
        address = f"/projects/{project}/screening"
        page = self._get(address)
        items = dict.fromkeys(link for link in page.links if link.startswith(f"{address}/"))
        for link in items:
            page = self._get(link)
            action, fields = page.form(link)
            page = self._post(action, fields | self._item_answer(page, link))
            if page.status != 200:
                raise DataError(f"{self.account.labeler}, {link}: {page.alert}")
        page = self._get(address)
        if any(action == address for action, _ in page.forms):
            self._post(address, page.form(address)[1])

    def label(self, project: int, kind: str, note: Callable[[], None]) -> int:
        """How many tasks were done, until there are none left; ``note`` is called after each."""
        start = self.num_done
        page = self._get(f"/projects/{project}")
        forms = [f for action, f in page.forms if action.endswith("/next") and f["kind"] == kind]
        if not forms:
            return 0
        page = self._post(f"/projects/{project}/next", forms[0])
        while page.path.startswith("/work/"):
            page = self._submit(page, kind)
            self.num_done += 1
            note()
        if page.status != 200:
            raise DataError(f"{self.account.labeler}, {page.path}: {page.alert}")
        return self.num_done - start

    def _submit(self, page: Page, kind: str) -> Page:
        """The next page. What the service doubts is submitted again as it is."""
        given = self._ranked(page) if kind == "ranking" else self._written(page)
        for _ in range(2):
            action, fields = page.form("/submit")
            page = self._post(action, fields | given)
            if page.status == 200:
                return page
        raise DataError(f"{self.account.labeler}, {page.path}: {page.alert}")

    def _task(self, page: Page) -> tuple[str, Task]:
        found = self.knowledge.tasks.get(page.prompt)
        if found is None:
            raise DataError(f"{page.path} shows a prompt that nobody imported: {page.prompt[:60]}")
        return found

    def _rng(self, purpose: str, prompt_id: str) -> random.Random:
        return random.Random(f"{self.knowledge.seed}-{purpose}-{self.labeler.id}-{prompt_id}")

    def _rank(self, page: Page) -> tuple[list[int], list[Any]]:
        prompt_id, task = self._task(page)
        is_cut = self.knowledge.is_cut
        return rank(
            self.knowledge.world,
            self.labeler,
            task,
            page.outputs,
            [(page.prompt, output) not in is_cut for output in page.outputs],
            self._rng("label", prompt_id),
            noise_scale=self.knowledge.noise_scale,
        )

    def _ranked(self, page: Page) -> dict[str, str]:
        fields = {}
        for place, (its_rank, rating) in enumerate(zip(*self._rank(page), strict=True)):
            fields |= {f"ranks.{place}": str(its_rank), f"ratings.{place}": str(rating.overall)}
            for name, flag in rating.flags.items():
                if flag is not None:
                    fields[f"ratings.{place}.{name}"] = _YES_NO[flag]
        return fields

    def _written(self, page: Page) -> dict[str, str]:
        prompt_id, task = self._task(page)
        rng = self._rng("write", prompt_id)
        text = write_demonstration(self.knowledge.world, task, rng, self.labeler.errors)
        return {"response": text}

    def _item_answer(self, page: Page, link: str) -> dict[str, str]:
        """The answer to an item of the test: by what stands on its page."""
        if not page.prompt:
            return {"text": TOPICS_ANSWER}
        if not page.outputs:
            return {"text": self._written(page)["response"]}
        ranks, ratings = self._rank(page)
        if len(ranks) == 1:
            return {"flags.0": _YES_NO[bool(ratings[0].flags["inappropriate"])]}
        return {f"ranks.{place}": str(its_rank) for place, its_rank in enumerate(ranks)}

    def _get(self, address: str) -> Page:
        return self._send("GET", address, None)

    def _post(self, address: str, fields: dict[str, str]) -> Page:
        return self._send("POST", address, fields)

    def _send(self, method: str, address: str, fields: dict[str, str] | None) -> Page:
        """The page that comes back; where no answer comes, the same is sent again."""
        wait_s = RETRY_S
        while True:
            try:
                return Page(self.browser.request(method, address, data=fields))
            except httpx.TransportError as error:
                if wait_s > LONGEST_WAIT_S:
                    raise DataError(f"{self.url} does not answer: {error}") from error
            time.sleep(wait_s)
            wait_s *= 2
