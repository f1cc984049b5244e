"""A simulated labeler's browser: what it reads off a page, and what it does without an answer."""

from __future__ import annotations

import httpx
import pytest

from heedful.errors import DataError
from heedful.simulation import service_labelers
from heedful.simulation.labelers import draw_candidates
from heedful.simulation.service_labelers import Account, Knowledge, Page, Person
from heedful.simulation.tasks import Task
from heedful.simulation.world import World

URL = "http://label.test"
WORLD = World(0)
NAME = WORLD.train_names[0]
TASK = Task("open_qa", "fact", {"name": NAME, "attribute": "home"})
TRUE = f"{NAME} lives in the {WORLD.facts[NAME]['home']}."
HTML = """
<form action="/logout"><input type="hidden" name="token" value="t"></form>
<form action="/work/w/submit"><input type="hidden" name="token" value="t">
<input type="hidden" name="key" value="k"><input type="radio" name="ranks.0" value="1">
<div class="card text" aria-labelledby="prompt-title">Where &lt;is&gt; it?\n </div>
<div class="text answer">I do not know.</div><div class="text answer">%s</div></form>
<a href="/projects/1">first</a>
"""


def person(handler):
    account = Account("labeler-00", "l@example.org", "token", "password")
    knowledge = Knowledge(WORLD, {"Where <is> it?\n ": ("p", TASK)}, noise_scale=0.0)
    one = Person(URL, account, draw_candidates(0, 1)[0], knowledge)
    one.close()
    one.browser = httpx.Client(
        base_url=URL, transport=httpx.MockTransport(handler), follow_redirects=True
    )
    return one


def test_a_page_is_read_as_it_is_shown():
    request = httpx.Request("GET", f"{URL}/work/w")
    page = Page(httpx.Response(200, text=HTML % TRUE, request=request))
    assert page.prompt == "Where <is> it?\n " and page.outputs == ["I do not know.", TRUE]
    assert page.form("/submit") == ("/work/w/submit", {"token": "t", "key": "k"})
    assert page.links == ["/projects/1"]
    with pytest.raises(DataError, match="has no form for /skip"):
        page.form("/skip")


def test_the_same_is_sent_again_until_an_answer_comes(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(service_labelers.time, "sleep", waits.append)
    sent = []

    def handle(request):
        if request.url.path == "/projects/1":
            form = (
                '<form action="/projects/1/next"><input type="hidden" name="kind" value="ranking">'
            )
            return httpx.Response(200, text=form)
        if request.url.path == "/projects/1/next":
            return httpx.Response(303, headers={"location": "/work/w"})
        if request.url.path == "/work/w":
            return httpx.Response(200, text=HTML % TRUE)
        sent.append(request.content)
        if len(sent) < 3:
            raise httpx.ConnectError("gone")
        return httpx.Response(303, headers={"location": "/projects/1"})

    one = person(handle)
    done: list[int] = []
    assert one.label(1, "ranking", lambda: done.append(1)) == 1 == len(done)
    assert sent[0] == sent[1] == sent[2] and waits == [0.5, 1.0]
    fields = dict(pair.split("=") for pair in sent[0].decode().split("&"))
    assert (fields["key"], fields["ranks.0"], fields["ranks.1"]) == ("k", "2", "1")
    assert fields["ratings.1"] == "7" and fields["ratings.1.fails_task"] == "no"
    assert "ratings.1.hallucination" not in fields  # is not asked of an open question
    one.close()


def test_a_service_that_is_gone_is_an_error_in_the_end(monkeypatch):
    monkeypatch.setattr(service_labelers.time, "sleep", lambda seconds: None)

    def handle(request):
        raise httpx.ConnectError("gone")

    one = person(handle)
    with pytest.raises(DataError, match="does not answer: gone"):
        one.enter()
    one.close()
