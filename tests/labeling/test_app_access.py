"""Who may see what: rules, origins, tokens, limits, headers, and what a labeler never sees."""

from __future__ import annotations

import re

import pytest

from heedful.labeling.access import MEMBERS, RULES
from heedful.labeling.app import POLICY
from heedful.labeling.pages import HERE
from heedful.store import history, people, pools, screening

URL, FIRST = "http://label.test", "/admin/projects/1"
SAMPLE = {
    "{project_id}": "1",
    "{assignment_id}": "x",
    "{token}": "x",
    "{invitation_id}": "1",
    "{number}": "1",
    "{name}": "manifest.json",
    "{item_id}": "1",
    "{code}": "candidate-00000000",
}


def concrete(path):
    for name, value in SAMPLE.items():
        path = path.replace(name, value)
    return path


def test_every_route_has_a_rule_and_every_rule_a_route(house):
    routes = {
        f"{method} {route.path}"
        for route in house.app.routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    assert routes == set(RULES)
    others = {route.path for route in house.app.routes if not getattr(route, "methods", None)}
    assert others == {"/static"}


def test_a_route_without_a_rule_is_closed(house, monkeypatch):
    monkeypatch.delitem(RULES, "GET /health")
    assert house.stranger().get("/health").status == 404


def test_nobody_gets_in_without_a_session_or_above_their_role(house):
    house.person("lea")
    people = {"": house.stranger(), "labeler": house.browser("lea")}
    token = people["labeler"].get("/").forms[0].fields["token"]
    for key, rule in RULES.items():
        method, path = key.split(" ")
        if rule == "anyone" or path == "/logout":
            continue
        for role, browser in people.items():
            if role in rule:
                continue
            data = {"token": token} if method != "GET" else None
            page = browser.send(method, concrete(path), data=data, headers={"Origin": URL})
            if role:
                assert page.status == 404, key
            else:
                assert page.path == "/login" if method == "GET" else page.status == 401, key


def test_staff_does_not_see_the_pages_of_labelers(house):
    assert house.browser("ada").get("/projects/1").status == 404
    assert set(RULES.values()) >= {MEMBERS}


def test_labelers_see_their_own_work_alone(house, completions_file):
    house.load(completions_file)
    for name in ("lea", "leo"):
        house.person(name)
    page = house.begin(house.browser("lea"), "ranking")
    leo = house.browser("leo")
    assert leo.get(page.path).status == 404
    token = leo.get("/").forms[0].fields["token"]
    for what in ("submit", "save", "skip", "flag", "undo", "heartbeat"):
        assert leo.post(f"{page.path}/{what}", {"token": token}).status == 404, what
    assert leo.get("/projects/2").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": URL},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused(house, headers):
    ada = house.browser("ada")
    token = ada.get("/admin").forms[0].fields["token"]
    page = ada.send("POST", "/logout", data={"token": token}, headers=headers)
    assert page.status == 403 and ada.get("/admin").status == 200


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_a_form_without_its_token_is_refused(house, token):
    ada = house.browser("ada")
    assert ada.post("/logout", {"token": token}).status == 403
    assert house.stranger().post("/login", {"token": token, "email": "a"}).status == 403
    draft = ada.send("PUT", "/work/x/draft", json={}, headers={"Origin": URL})
    assert draft.status == 404  # not a labeler's


def test_a_form_that_is_too_large_is_not_read(house):
    stranger = house.stranger()
    token = stranger.get("/login").forms[0].fields["token"]
    assert stranger.post("/login", {"token": token, "email": "a" * 4_000_000}).status == 413


def test_guessing_passwords_gets_slower_even_after_a_restart(house):
    house.person("lea")
    guesser = house.stranger()
    for _ in range(5):
        assert guesser.log_in("lea@example.org", "a wrong password").status == 401
    blocked = house.stranger("10.9.9.9").log_in("lea@example.org")
    assert blocked.status == 429 and blocked.response.headers["Retry-After"] == "1"
    house.clock.now += 1.0
    assert guesser.log_in("lea@example.org", "a wrong password").status == 401
    house.clock.now += 1.0
    assert guesser.log_in("lea@example.org").status == 429  # two seconds now
    house.clock.now += 1.0
    assert guesser.log_in("lea@example.org").status == 200
    # An address without an account is told nothing else.
    assert "Address or password are wrong." in guesser.log_in("no@example.org", "x").text


def test_sessions_end_by_themselves(house):
    house.person("lea")
    lea, ada = house.browser("lea"), house.browser("ada")
    house.clock.now += 1801.0
    assert ada.get("/admin").path == "/login" and lea.get("/").path == "/"
    for _ in range(14):
        house.clock.now += 3000.0
        last = lea.get("/").path
    assert last == "/login"  # twelve hours are over, however busy


def test_the_session_cookie_is_out_of_reach_of_scripts(house):
    stranger = house.stranger()
    form = stranger.get("/login").response
    assert re.search(r"heedful-form=[\w-]+;.*HttpOnly.*SameSite=lax", form.headers["set-cookie"])
    page = stranger.log_in("ada@example.org")
    (login,) = [one for one in page.response.history if one.request.url.path == "/login"]
    assert re.search(r"^heedful=[\w-]{43};.*HttpOnly.*SameSite=lax", login.headers["set-cookie"])


@pytest.mark.parametrize("path", ["/login", "/health", "/nowhere", "/static/style.css", "/admin/x"])
def test_every_response_carries_the_headers(house, path):
    headers = house.stranger().get(path).response.headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_an_error_nobody_foresaw_is_a_page_without_details(house, monkeypatch, caplog):
    def break_down(*given, **named):
        raise RuntimeError("CANARY secret")

    ada = house.browser("ada")
    monkeypatch.setattr("heedful.store.projects.all_projects", break_down)
    page = ada.get("/admin")
    assert page.status == 500 and "CANARY" not in page.html and "tell the operator" in page.text
    assert page.response.headers["content-security-policy"] == POLICY
    assert "CANARY secret" in caplog.text


def test_templates_have_nothing_inline_and_nothing_unescaped():
    for path in HERE.glob("templates/*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape false|style=|\son\w+=|javascript:", text), path
        assert not re.search(r"<script(?! type=\"module\" src=\"/static/)", text), path
        assert not re.search(r"(src|href)=\"https?:", text), path


def test_a_labeler_sees_no_model_no_source_and_no_id_anywhere(house, completions_file):
    house.load(completions_file)
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "ranking")
    assert "&lt;b&gt;bird" in page.html or "Name a tree." in page.text
    seen = [page]
    action = page.path + "/submit"
    seen.append(lea.post(action, page.form(action)))  # incomplete
    seen.append(
        lea.post(action, page.form(action) | house.ranked((1, 1, 1), (7, 1, 1)))
    )  # doubtful
    seen.append(lea.submit(seen[-1], action))
    seen.append(lea.submit(seen[-1], seen[-1].path + "/submit", to=seen[-1].path + "/skip"))
    known = crawl(lea, seen)
    assert {"/projects/1", "/projects/1/history", "/account"} <= known
    assert "/account/second-factor" in known
    for page in seen:
        check_blind(page)
    assert any("&lt;script&gt;alert(1)" in page.html for page in seen)


def crawl(browser, seen):
    """The addresses of all pages that links lead to; the pages go to ``seen``."""
    todo, known = ["/"], set()
    while todo:
        path = todo.pop()
        known.add(path)
        page = browser.get(path)
        seen.append(page)
        todo += [one for one in page.links if one.startswith("/") and one not in known]
    return known


def check_blind(page):
    whole = page.html + str(page.response.headers) + str(page.response.url)
    assert "CANARY" not in whole, page.path
    assert "<script>alert" not in page.html


def test_a_candidate_sees_neither_researchers_answers_nor_what_they_wrote(house, completions_file):
    house.load(completions_file)
    labeler = house.person("lea")
    now = house.clock.now

    def prepare(c):
        content = {"prompt": "<script>alert(1)</script>", "output": None, "questions": ["Rude?"]}
        screening.add_item(c, 1, "flags", content, {"Rude?": True}, actor=1, now=now)
        content = {"prompt": "Say no"}
        screening.add_item(c, 1, "demonstration", content, actor=1, now=now)
        people.change_membership(
            c, 1, labeler, state="screening", note="CANARY-note", actor=1, now=now
        )
        pools.set_gold(c, 1, {"ranks": [1, 2, 3]}, actor=1, now=now)
        history.adjudicate(c, 2, {"ranks": [1, 2, 3]}, note="CANARY-why", actor=1, now=now)

    house.database.write(prepare)
    lea, seen = house.browser("lea"), []
    known = crawl(lea, seen)
    assert {"/projects/1/screening", "/projects/1/screening/1"} <= known
    page = lea.get("/projects/1/screening/1")
    lea.submit(page, page.path, flags__0="no")
    page = lea.get("/projects/1/screening/2")
    seen.append(lea.submit(page, page.path, text="No, thank you"))
    answers = lea.get("/projects/1/screening")
    seen.append(lea.submit(answers, "/projects/1/screening"))
    crawl(lea, seen)
    house.database.write(
        lambda c: screening.decide(c, 1, labeler, accept=False, note="CANARY", actor=1, now=now)
    )
    crawl(lea, seen)
    house.database.write(lambda c: screening.decide(c, 1, labeler, accept=True, actor=1, now=now))
    seen.append(house.begin(lea, "ranking"))
    crawl(lea, seen)
    for page in seen:
        check_blind(page)
        assert not re.search(r"(?i)\b(gold|drift|truth|cohort)\b", page.text), page.path


def test_every_field_of_every_page_has_a_label(house, completions_file):
    house.load(completions_file)
    house.person("lea")
    lea, ada = house.browser("lea"), house.browser("ada")
    pages = [house.stranger().get("/login"), house.begin(lea, "ranking"), lea.get("/account")]
    paths = ["/admin", FIRST, f"{FIRST}/labelers", f"{FIRST}/screening", f"{FIRST}/tasks"]
    paths += [f"{FIRST}/tasks/1", f"{FIRST}/erasure", f"{FIRST}/quarantine", "/admin/people"]
    paths += ["/admin/people/2/erase", "/admin/audit", "/account/second-factor"]
    pages += [ada.get(path) for path in paths]
    assert all(page.status == 200 for page in pages)
    for page in pages:
        ids = [given["id"] for _, given in page.tags if "id" in given]
        assert len(ids) == len(set(ids)), page.path
        labelled = {given.get("for") for tag, given in page.tags if tag == "label"}
        for tag, given in page.tags:
            is_field = tag in ("select", "textarea") or (
                tag == "input" and given.get("type") not in ("hidden", "radio", "checkbox")
            )
            if is_field:
                assert given.get("id") in labelled, (page.path, given)
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize("text", ["1" + "0" * 30, "%00", "-1", "x", "9" * 18])
def test_addresses_of_nothing_are_no_errors_here(house, text):
    house.person("lea")
    browsers = {"admin": house.browser("ada"), "labeler": house.browser("lea")}
    for key, rule in RULES.items():
        method, path = key.split(" ")
        role = next((one for one in browsers if rule == "anyone" or one in rule), None)
        if method != "GET" or role is None or "{" not in path:
            continue
        page = browsers[role].get(re.sub(r"\{\w+\}", text, path))
        assert page.status < 500, key
    for query in ("audit?before=", "audit?object=", "projects/1/tasks?after="):
        assert browsers["admin"].get(f"/admin/{query}{text}").status < 500


def test_texts_that_no_database_holds_are_no_errors_here(house, completions_file):
    house.load(completions_file)
    ada = house.browser("ada")
    token = {"token": ada.get("/account").forms[0].fields["token"]}
    sent = {
        "/admin/projects/1/tasks/1/decision": {"note": "\0", "ranks.0": "1", "ranks.1": "1"},
        "/admin/projects/1/erasure": {"customer": "a\0b"},
        "/admin/projects/1/screening/items": {"kind": "flags", "prompt": "\0", "truth": "yes"},
        "/admin/people/2/erase": {"email": "\0"},
        "/login": {"email": "\0", "password": "\0"},
        "/login/code": {"ticket": "\0", "code": "\0"},
    }
    for path, fields in sent.items():
        fields |= {"ranks.2": "1"}
        assert ada.post(path, token | fields).status < 500, path
