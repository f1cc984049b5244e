"""The story of the service in plain forms: invited, ranked, written, undone, agreed, exported."""

from __future__ import annotations

import json
import re

import pytest

from heedful.records import METADATA_FIELDS
from heedful.store import labels, people, projects

FIRST = "/admin/projects/1"


def action_of(page, what="submit"):
    """Where a button of a task's page leads."""
    (found,) = [form.action for form in page.forms if form.action.endswith("/submit")]
    return found.removesuffix("submit") + what


def rows(house):
    with house.database.read() as connection:
        return list(labels.ranking_rows(connection, house.project.id))


def at_work(house, completions_file):
    """Lea's browser, the page of her first ranking, and where its form goes."""
    house.load(completions_file)
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "ranking")
    return lea, page, action_of(page)


def test_an_invited_labeler_ranks_and_a_snapshot_holds_it(house, completions_file):
    ada = house.browser("ada")
    page = ada.get(f"{FIRST}/labelers")
    page = ada.submit(page, f"{FIRST}/invitations", email="Lea@Example.org", role="labeler")
    (link,) = re.findall(r"http://label\.test(/invitation/[\w-]+)", page.text)
    assert "2 tasks were made" in house.load(completions_file).text

    lea = house.stranger()
    page = lea.get(link)
    assert "lea@example.org" in page.text
    same = {"password": "seven quiet herons", "again": "seven quiet herons"}
    assert lea.submit(page, link, name="Lea", **same).path == "/"
    assert house.stranger().get(link).status == 404  # used up

    page = house.begin(lea, "ranking")
    shown = re.findall(r'<div class="text answer">(.*?)</div>', page.html)
    assert len(shown) == 3
    action = action_of(page)
    page = lea.post(action, page.form(action) | house.ranked((1, 2, 2), (7, 3, 3)))
    assert "Submitted." in page.text and page.path != action
    (row,) = rows(house)
    # ranks[i] belongs to the output in place i of the task; the page had its own order.
    by_place = dict(zip(row.display_order, (1, 2, 2), strict=True))
    assert row.ranks == tuple(by_place[place] for place in range(3))
    assert [r.overall for r in row.ratings] == [{1: 7, 2: 3}[rank] for rank in row.ranks]

    page = ada.get(FIRST)
    page = ada.submit(page, f"{FIRST}/snapshots")
    (address,) = [link for link in page.links if link.endswith("/comparisons.jsonl")]
    (line,) = ada.get(address).html.splitlines()
    row = json.loads(line)
    assert sorted(row["ranks"]) == [1, 2, 2] and row["labeler"].startswith("labeler-")
    assert {one["text"] for one in row["completions"]} >= {"A heron."} or row["prompt"] == (
        "Name a tree."
    )
    assert ada.get(address.replace("comparisons.jsonl", "..%2Fmanifest.json")).status == 404


def test_an_incomplete_answer_comes_back_with_what_was_given(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    sent = house.ranked((1, 2, 3), (7, 5, 3)) | {
        "notes": "line 1\r\nline 2",
        "rating_notes.1": "<i>",
    }
    del sent["ratings.1.violent"]
    page = lea.post(action, page.form(action) | sent)
    assert page.status == 422 and "#ratings.1.violent" in page.links
    fields = page.form(action)
    assert fields["notes"] == "line 1\r\nline 2" and fields["rating_notes.1"] == "<i>"
    assert {fields[f"ranks.{place}"] for place in range(3)} == {"1", "2", "3"}
    assert lea.post(action, fields | {"ranks.0": "x"}).status == 422
    assert lea.post(action, fields | {"ratings.1.violent": "no", "ranks.0": "9"}).status == 422
    assert rows(house) == []
    assert "Submitted." in lea.post(action, fields | {"ratings.1.violent": "no"}).text
    assert len(rows(house)) == 1


def test_a_doubtful_answer_is_asked_about_once(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    page = lea.post(action, page.form(action) | house.ranked((1, 2, 3), (2, 5, 3)))
    assert page.status == 422 and "a lower rated output has the better rank" in page.text
    assert "Submitted." in lea.submit(page, action).text
    (row,) = rows(house)
    assert row.checks == ("contradiction",)


def test_a_form_that_comes_back_counts_the_time_on(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    assert page.form(action)["active_s"] == ""
    sent = house.ranked((1, 2, 3), (2, 5, 3)) | {"active_s": "57"}
    page = lea.post(action, page.form(action) | sent)
    assert page.status == 422 and page.form(action)["active_s"] == "57"
    house.clock.now += 90.0
    assert "Submitted." in lea.submit(page, action, active_s="61").text
    (row,) = rows(house)
    assert row.active_s == 61


def test_a_draft_saved_by_the_button_counts_the_time_on(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    save = action_of(page, "save")
    page = lea.post(save, page.form(action) | {"active_s": "240", "notes": "so far"})
    assert page.form(action)["active_s"] == "240" and page.form(action)["notes"] == "so far"


def test_a_task_that_is_opened_another_day_counts_the_time_on(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    token = page.form(action)["token"]
    headers = {"Sec-Fetch-Site": "same-origin", "X-Form-Token": token}

    def keep(what, body):
        method = {"draft": "PUT", "heartbeat": "POST"}[what]
        assert lea.send(method, action_of(page, what), json=body, headers=headers).status == 200

    def counted():
        return lea.get(page.path).form(action)["active_s"]

    assert counted() == ""
    keep("draft", {"fields": {"notes": "a"}, "revision": 0, "active_s": 40})
    assert counted() == "40"
    keep("draft", {"fields": {"notes": "b"}, "revision": 1})
    keep("heartbeat", {})
    keep("heartbeat", {"active_s": "soon"})
    assert counted() == "40"
    house.clock.now += 120.0
    keep("heartbeat", {"active_s": 100})
    keep("heartbeat", {"active_s": 7})  # another tab, which was opened later
    assert lea.send("POST", action_of(page, "heartbeat"), json=[1], headers=headers).status == 422
    assert counted() == "100"
    house.clock.now += 86_400.0
    lea = house.browser("lea")
    page = house.begin(lea, "ranking")
    assert page.form(action)["active_s"] == "100" and page.form(action)["notes"] == "b"
    undo = action_of(page, "undo")
    page = lea.submit(page, action, **house.ranked((1, 2, 3), (7, 5, 3)), active_s="130")
    assert "Submitted." in page.text and rows(house)[0].active_s == 130
    page = lea.submit(page, undo)
    assert page.form(action)["active_s"] == "130"


def test_a_second_doubt_keeps_the_first(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    page = lea.post(action, page.form(action) | house.ranked((1, 2, 3), (2, 5, 3)))
    assert page.form(action)["checks"] == "contradiction"
    page = lea.submit(page, action, active_s="0.01")
    assert page.status == 422 and page.form(action)["checks"] == "contradiction too_fast"
    assert "Submitted." in lea.submit(page, action).text


def test_sending_a_form_twice_keeps_one_answer(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    sent = page.form(action) | house.ranked((1, 2, 3), (7, 5, 3))
    first, again = lea.post(action, sent), lea.post(action, sent)
    assert first.status == again.status == 200 and len(rows(house)) == 1
    other = lea.post(action, sent | {"notes": "changed"})
    assert other.status == 409 and "with another answer" in other.text


def test_undo_brings_the_answer_back_until_it_is_too_late(house, completions_file):
    lea, page, action = at_work(house, completions_file)
    undo = action_of(page, "undo")
    page = lea.post(action, page.form(action) | house.ranked((1, 2, 3), (7, 5, 3)))
    page = lea.submit(page, undo)
    assert page.form(action)["ranks.1"] == "2" and rows(house) == []
    page = lea.submit(page, action, notes="better")
    house.clock.now += 61.0
    late = lea.submit(page, undo)
    assert late.status == 409 and "too late" in late.text and len(rows(house)) == 1


def test_a_skip_loses_no_text(house):
    page = house.load(b'{"id": "p", "text": "Say hello"}\n', what="prompts")
    assert "1 prompts were read, 1 tasks were made." in page.text
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "demonstration")
    action = action_of(page)
    page = lea.submit(page, action, to=action_of(page, "skip"), response="Hello\r\n there")
    assert "Skipped; what you wrote is kept." in page.text
    page = lea.submit(page, action.removesuffix("submit") + "undo")
    assert page.form(action)["response"] == "Hello\r\n there"
    page = lea.submit(page, action, labels__pii="on")
    assert "no more demonstrations" in page.text or "Submitted." in page.text
    # Personal data: the prompt is in quarantine at once.
    ada = house.browser("ada")
    page = ada.get(f"{FIRST}/quarantine")
    assert "Say hello" in page.text
    assert "There are none." in ada.submit(page, f"{FIRST}/quarantine").text


def test_drafts_are_saved_by_script_and_two_tabs_do_not_overwrite_each_other(house):
    house.load(b'{"id": "p", "text": "Say hello"}\n', what="prompts")
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "demonstration")
    action, token = action_of(page), page.form(action_of(page))["token"]
    headers = {"Sec-Fetch-Site": "same-origin", "X-Form-Token": token, "Accept": "application/json"}

    def put(text, revision):
        body = {"fields": {"response": text, "token": "t"}, "revision": revision}
        done = lea.send("PUT", action_of(page, "draft"), json=body, headers=headers)
        return done.status, done.response.json()

    status, answer = put("Hel", 0)
    assert (status, answer["revision"], answer["saved_at"]) == (200, 1, house.clock.now)
    assert put("Hello", 1)[0] == 200
    status, answer = put("From the other tab", 0)
    assert status == 409 and answer["fields"] == {"response": "Hello"}
    both = lea.submit(page, action, to=action_of(page, "save"), response="From the other tab")
    assert both.status == 409 and "Hello" in both.text
    assert both.form(action)["response"] == "From the other tab"
    assert lea.submit(page, action, response="Sent from the old tab").status == 409
    lea.submit(both, action, to=action_of(page, "save"))
    assert lea.get(page.path).form(action)["response"] == "From the other tab"
    house.clock.now += 60.0
    beat = lea.send("POST", action_of(page, "heartbeat"), json={}, headers=headers)
    assert beat.response.json()["lease_until"] > house.clock.now
    assert lea.send("PUT", action_of(page, "draft"), json=[1], headers=headers).status == 422
    revision = int(lea.get(page.path).form(action)["revision"])
    half = b'{"fields": {"response": "cut \\ud83d"}, "revision": %d}' % revision
    sent = headers | {"Content-Type": "application/json"}
    assert lea.send("PUT", action_of(page, "draft"), content=half, headers=sent).status == 200
    assert lea.get(page.path).form(action)["response"] == "cut ?"


def test_a_bad_file_says_what_is_wrong_and_leaves_nothing(house):
    page = house.load(b'{"prompt": "a", "responses": ["x", "y"]}\n{"prompt": "b"}\n')
    assert page.status == 422 and "upload.jsonl, line 2" in page.text and "/tmp" not in page.text
    assert house.load(b"MZ", name="rows.exe").status == 422
    one = house.load(b'{"prompt": "a", "responses": ["x"]}\n')
    assert one.status == 422 and "has 1 completions" in one.text
    with house.database.read() as connection:
        assert not list(labels.ranking_rows(connection, 1))
    assert "No tasks yet" in house.browser("ada").get(FIRST).text


def test_agreement_of_two_labelers_stands_on_the_page(house, completions_file):
    ada = house.browser("ada")
    page = ada.get(FIRST)
    page = ada.submit(page, f"{FIRST}/settings", overlap_percent="100", overlap_n="2")
    assert page.form(f"{FIRST}/settings")["overlap_n"] == "2"
    house.load(completions_file)
    for name in ("lea", "leo"):
        house.person(name)
        browser = house.browser(name)
        page = house.begin(browser, "ranking")
        while page.path.startswith("/work/"):
            # Ranked by length, and once the other way round: one of two tasks agrees.
            texts = re.findall(r'<div class="text answer">(.*?)</div>', page.html)
            order = sorted(range(3), key=lambda place: (len(texts[place]), texts[place]))
            turned = name == "leo" and "An oak." in texts
            ranks = [3 - order.index(p) if turned else 1 + order.index(p) for p in range(3)]
            action = action_of(page)
            sent = house.ranked(ranks, [8 - rank for rank in ranks])
            page = browser.post(action, page.form(action) | sent)
    assert len(rows(house)) == 4
    text = re.sub(r"\s+", " ", ada.get(f"{FIRST}/labelers").text)
    # Three pairs of outputs in the same order, three in the opposite one: a half, ties: none.
    assert "2 tasks shared by 2 labelers" in text and "ties: 0.0% of" in text
    assert re.search(r"strict\s*50\.0%\s*-\s*-\s*same order", text)
    assert "2 shared prompts: an interval needs 30" in text


def test_an_account_has_a_new_password_and_ends_other_sessions(house):
    house.person("lea")
    one, two = house.browser("lea"), house.browser("lea")
    page = one.get("/account")
    new = {"password": "eight loud herons", "again": "eight loud herons"}
    assert one.submit(page, "/account/password", old="wrong", **new).status == 422
    short = {"password": "short", "again": "short"}
    assert one.submit(page, "/account/password", old="seven quiet herons", **short).status == 422
    assert (
        "was changed" in one.submit(page, "/account/password", old="seven quiet herons", **new).text
    )
    assert two.get("/").path == "/login" and one.get("/").path == "/"
    assert one.submit(one.get("/"), "/logout").path == "/login"
    assert one.get("/").path == "/login"


def test_a_researcher_makes_a_project_and_brings_a_labeler_in(house):
    house.person("rea", "researcher")
    labeler = house.person("lea")
    rea = house.browser("rea")
    page = rea.get("/admin")
    assert rea.submit(page, "/admin/projects", name="first").status == 422  # is taken
    page = rea.submit(page, "/admin/projects", name="second", mode="fast", overlap_n="2")
    second = page.path
    number = int(second.removeprefix("/admin/projects/"))  # PostgreSQL leaves out what was refused
    assert number > 1 and "Questions: fast" in page.text
    page = rea.get(f"{second}/labelers")
    sent = {"token": page.forms[0].fields["token"], "user_id": str(labeler), "cohort": "heldout"}
    rea.post(f"{second}/labelers", sent)
    with house.database.read() as connection:
        member = people.membership(connection, number, labeler)
    assert member is not None and (member.cohort, member.state) == ("heldout", "active")
    rea.post(f"{second}/labelers", sent | {"state": "paused"})
    lea = house.browser("lea")
    assert "not at work in this project now" in lea.get(f"/projects/{number}").text
    page = rea.get(second)
    rea.submit(page, f"{second}/guidelines", text="Be short.", changes="Shorter.")
    assert "Shorter." in lea.get(f"/projects/{number}").text
    page = lea.get(f"/projects/{number}/guidelines")
    assert "Be short." in page.text
    assert "Shorter." not in lea.submit(page, f"/projects/{number}/guidelines").text


@pytest.mark.parametrize("role", ["researcher", "admin"])
def test_a_researcher_cannot_invite_above_themselves(house, role):
    house.person("rea", "researcher")
    rea = house.browser("rea")
    page = rea.get(f"{FIRST}/labelers")
    page = rea.submit(page, f"{FIRST}/invitations", email="x@example.org", role=role)
    assert page.status == 422 and "a role that you may give" in page.text


def test_a_project_can_ask_what_is_true(house):
    house.person("rea", role="researcher")
    rea = house.browser("rea")
    page = rea.get("/admin")
    assert rea.submit(page, "/admin/projects", name="odd", asked="weather").status == 422
    made = rea.submit(page, "/admin/projects", name="truth", asked="truth")
    assert "Questions: strict, true and informative" in made.text
    plain = rea.submit(page, "/admin/projects", name="plain")
    assert "Questions: strict, version" in plain.text
    numbers = [int(one.path.rpartition("/")[2]) for one in (made, plain)]
    with house.database.read() as connection:
        truth, table3 = (projects.schema(connection, number) for number in numbers)
    assert truth.rating_flags == ("true", "informative")
    assert table3.rating_flags == METADATA_FIELDS
