"""Beside the tasks: own figures, guidelines and their changes, questions, the survey."""

from __future__ import annotations

import asyncio
import re

from heedful.labeling.survey import comments, results
from heedful.store import people

FIRST, MINE = "/admin/projects/1", "/projects/1"
PROMPTS = b'{"id": "p", "text": "Say hello"}\n{"id": "q", "text": "Say goodbye"}\n'


def words(page):
    """The text of a page with one space between the parts."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.html).split())


def test_own_figures_count_by_kind_and_day(house):
    house.load(PROMPTS, what="prompts")
    house.person("lea")
    lea = house.browser("lea")
    page = house.begin(lea, "demonstration")
    house.clock.now += 90.0
    (action,) = [form.action for form in page.forms if form.action.endswith("/submit")]
    lea.submit(page, action, response="Hi", active_s="90")
    page = lea.get(f"{MINE}/history")
    text = words(page)
    assert "demonstrations 1 0 2 min 1.5 min" in text
    assert "11-14" in text  # the day of the clock, 2023-11-14
    earlier = lea.get(f"{MINE}/history?before={house.clock.now - 91}")
    assert "Nothing before that." in earlier.text and "In figures" not in earlier.text
    assert lea.get(f"{MINE}/history?before=x").status == 404
    done = "1 0 2 min"
    assert f"Today (UTC) {done} In all {done}" in words(lea.get(MINE))
    house.clock.now += 86_400.0
    assert f"Today (UTC) 0 0 0 min In all {done}" in words(house.browser("lea").get(MINE))


def test_guidelines_show_what_has_changed_since_they_were_read(house):
    house.person("lea")
    lea, ada = house.browser("lea"), house.browser("ada")
    page = lea.get(f"{MINE}/guidelines")
    assert "<ins>" not in page.html  # new to her altogether
    lea.submit(page, f"{MINE}/guidelines")
    for text, changes in (("Be kind & <short>.", "Shorter."), ("Be kind & <brief>.", "A word.")):
        ada.submit(ada.get(FIRST), f"{FIRST}/guidelines", text=text, changes=changes)
    page = lea.get(f"{MINE}/guidelines")
    assert "What has changed since version 1" in page.text
    assert "<del>kind.</del><ins>kind &amp; &lt;brief&gt;.</ins>" in page.html
    page = lea.get(f"{MINE}/guidelines?since=2")
    assert "<del>&lt;short&gt;.</del><ins>&lt;brief&gt;.</ins>" in page.html
    page = ada.get(f"{FIRST}/guidelines")
    assert "<del>&lt;short&gt;.</del><ins>&lt;brief&gt;.</ins>" in page.html
    assert f"{FIRST}/guidelines?since=1" in page.links
    assert "<ins>" not in lea.get(f"{MINE}/guidelines?since=77").html


def test_a_question_about_a_task_is_answered_and_shown_as_new(house):
    house.load(PROMPTS, what="prompts")
    for name in ("lea", "leo"):
        house.person(name)
    lea, leo, ada = house.browser("lea"), house.browser("leo"), house.browser("ada")
    page = house.begin(lea, "demonstration")
    asked = f"{page.path}/questions"
    assert asked in page.links
    assert leo.get(asked).status == 404
    assert lea.submit(lea.get(asked), asked, text=" ").status == 422
    page = lea.submit(lea.get(asked), asked, text="May it be <i>short</i>?")
    assert "May it be &lt;i&gt;short&lt;/i&gt;?" in page.html
    assert "new answers" not in lea.get(MINE).text
    page = ada.get(f"{FIRST}/questions")
    assert "lea" in page.text
    (thread,) = [link for link in page.links if link.startswith(f"{FIRST}/questions/")]
    page = ada.get(thread)
    assert "Say " in page.text and "&lt;i&gt;" in page.html
    assert ada.get(thread.replace("projects/1", "projects/2")).status == 404
    assert "Yes." in ada.submit(page, thread, text="Yes.").text
    assert "new answers" in lea.get(MINE).text
    assert asked in lea.get(f"{MINE}/questions").links
    page = lea.get(asked)
    assert "Yes." in page.text and "Ada" not in page.text
    assert "new answers" not in lea.get(MINE).text


def test_a_survey_is_changed_by_its_labeler_and_shown_without_names_from_five_on(house):
    for number in range(5):
        house.person(f"l{number}")
    ada = house.browser("ada")
    for number in range(5):
        assert "%" not in re.sub("percent", "", ada.get(f"{FIRST}/survey").text)
        browser = house.browser(f"l{number}")
        page = browser.get(f"{MINE}/survey")
        assert page.form(f"{MINE}/survey")["pay"] == ""  # nothing is preselected but no answer
        given = {"pay": "agree" if number else "disagree", "glad": "strongly_agree", "token": "x"}
        given["token"] = page.form(f"{MINE}/survey")["token"]
        if number == 4:
            given |= {"comment": "More <b>tea</b>", "instructions": "nonsense"}
        page = browser.post(f"{MINE}/survey", given)
        assert "Your answers are kept." in page.text
        assert page.form(f"{MINE}/survey")["glad"] == "strongly_agree"
    page = ada.get(f"{FIRST}/survey")
    text = words(page)
    assert "The pay was fair. 0.0% 80.0% 0.0% 20.0% 0.0% 5" in text
    assert "instructions made clear" not in text  # nobody has answered that
    assert "More &lt;b&gt;tea&lt;/b&gt;" in page.html and "l4" not in text
    with house.database.read() as connection:
        assert len(people.survey_answers(connection, 1)) == 5


def test_results_are_shares_of_those_who_answered():
    given = [{"pay": "agree"}] * 3 + [{"pay": "neither"}] * 2 + [{}] * 4
    (pay,) = results(given)
    assert (pay.num_answers, pay.shares["agree"], pay.shares["neither"]) == (5, 0.6, 0.4)
    assert results(given[:4]) == []
    assert comments([{"comment": "b"}, {"comment": "a"}, {}, {}, {}]) == ["a", "b"]
    assert comments([{"comment": "b"}] * 4) == []


def test_a_form_that_breaks_off_is_no_error_of_the_service(house, caplog):
    """The network goes while a form is on its way: nothing is kept, and nobody is alarmed."""
    stranger = house.stranger()
    token = stranger.get("/login").form("/login")["token"]
    sent = [{"type": "http.request", "body": b"token=", "more_body": True}]
    answers: list[dict[str, object]] = []

    async def receive():
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(message):
        answers.append(message)

    headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"99")]
    headers += [(b"cookie", f"heedful-form={token}".encode()), (b"sec-fetch-site", b"same-origin")]
    scope = {"type": "http", "method": "POST", "path": "/login", "raw_path": b"/login"}
    scope |= {"headers": headers, "query_string": b"", "client": ("10.0.0.1", 1), "scheme": "http"}
    scope |= {"server": ("label.test", 80), "http_version": "1.1", "root_path": ""}
    asyncio.run(house.app(scope, receive, send))
    assert "error" not in caplog.text and answers[0]["status"] == 400
