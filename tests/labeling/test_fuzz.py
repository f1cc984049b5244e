"""Made-up requests to every address, as nobody, a labeler and a researcher: no error, no leak.

Schemathesis makes the requests from the application's OpenAPI document. Forms are read by the
guard and not by FastAPI, so the document does not know them: their fields come from the pages.
HEEDFUL_EXAMPLES sets how many requests there are for each address.
"""

from __future__ import annotations

import json
import os
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from heedful.labeling.access import RULES
from heedful.store import tasks

EXAMPLES = int(os.environ.get("HEEDFUL_EXAMPLES", "3"))  # per address
WORK = "the-task"  # stands for a task that is there
STORY = settings(
    max_examples=EXAMPLES,
    phases=[Phase.generate],
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# Numbers that databases keep in fewer bits than Python does, beside those that are there.
NUMBERS = [1, 2, 0, -1, 2**31, 2**63, 10**30]
TEXTS = {"type": "string", "maxLength": 30}
ODD = ["", "\x00", "1e999", "-1", "NaN", "9" * 40, "٣", "a\r\nSet-Cookie: b=c"]


@pytest.fixture
def work(house, completions_file):
    """The task of a labeler, lea; rea is a researcher."""
    house.load(completions_file)
    house.load(b'{"id": "p", "text": "Say hello"}\n', what="prompts")
    labeler = house.person("lea")
    house.person("rea", "researcher")
    found = house.database.write(
        lambda c: tasks.claim(c, house.project.id, labeler, "ranking", now=house.clock.now)
    )
    return found.id


def fields_of_forms(house, work):
    """{address: {field: value}} of every form on the pages of a labeler and a researcher."""
    found = {}
    for name, todo in (("lea", ["/", f"/work/{work}"]), ("rea", ["/admin"])):
        browser, known = house.browser(name), set()
        while todo:
            path = todo.pop().split("#")[0]
            if path in known or not path.startswith("/"):
                continue
            known.add(path)
            page = browser.get(path)
            todo += page.links
            for form in page.forms:
                found.setdefault(form.action, {}).update(form.fields)
    return found


def document_of(house, work):
    """The OpenAPI document with parameters that often exist, and with the fields of the forms."""
    document = json.loads(json.dumps(house.app.openapi()))
    forms = fields_of_forms(house, work)
    for path, item in document["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
        fields = {}
        for action, values in forms.items():
            if re.fullmatch(pattern, action):
                fields |= values
        for method, operation in item.items():
            for parameter in operation.get("parameters", ()):
                is_number = parameter["schema"].get("type") == "integer"
                usual = NUMBERS if is_number else [WORK, "manifest.json", *ODD[:1]]
                parameter["schema"] = {"anyOf": [{"enum": usual}, parameter["schema"]]}
            if method in ("post", "put"):
                one = {
                    name: {"anyOf": [{"enum": [value, *ODD]}, TEXTS]}
                    for name, value in fields.items()
                    if name != "token"
                }
                schema = {"type": "object", "properties": one, "additionalProperties": False}
                body = {"schema": schema | {"required": list(one)[::2]}}
                operation["requestBody"] = {"content": {"application/x-www-form-urlencoded": body}}
    return document


@pytest.fixture(scope="module")
def made_up():
    """Requests by the key of their route: made once, sent by everybody to both databases."""
    return {}


def make_up(document):
    """{route: [request]} for the whole document."""
    return {
        f"{operation.method.upper()} {operation.path}": examples(operation)
        for operation in (
            one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()
        )
    }


def examples(operation):
    """Some requests to one address."""
    found = []

    @STORY
    @given(operation.as_strategy())
    def keep(case):
        found.append(case)

    keep()
    return found


def send(browser, token, case, work):
    """The page that comes back for a made-up request, sent with a good form token."""
    body = case.body if isinstance(case.body, dict) else {}
    data = {str(name): value for name, value in body.items() if isinstance(value, str)}
    data = {name: value.encode("utf-8", "replace").decode() for name, value in data.items()}
    more = {"headers": {"Origin": "http://label.test"}, "params": case.query or None}
    path = case.formatted_path.replace(WORK, work)
    if case.method == "PUT":
        more["headers"]["X-Form-Token"] = token
        return browser.send(case.method, path, json={"fields": data, "revision": 0}, **more)
    if case.method == "POST":
        more["data"] = data | {"token": token}
    return browser.send(case.method, path, **more)


def is_shut(page):
    return page.status in (401, 404) or (page.path == "/login" and page.status == 200)


@pytest.mark.parametrize("role", ["anonymous", "labeler", "researcher"])
def test_made_up_requests_break_nothing_and_open_nothing(house, work, made_up, role):
    made_up.update(made_up or make_up(document_of(house, work)))
    num_sent, browser = 0, house.stranger()
    place, form = ("/login", "/login") if role == "anonymous" else ("/account", "/logout")
    for key, cases in made_up.items():
        if role != "anonymous" and browser.get("/account").path == "/login":
            browser = house.browser({"labeler": "lea", "researcher": "rea"}[role])
        token = browser.get(place).form(form)["token"]
        for case in cases:
            page = send(browser, token, case, work)
            assert page.status < 500, (key, case.path_parameters, case.query, case.body)
            if RULES[key] != "anyone" and role not in RULES[key]:
                assert is_shut(page), (key, case.path_parameters, page.status, page.path)
            num_sent += 1
    assert num_sent > len(RULES)
