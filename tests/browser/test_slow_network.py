"""The pages of a task while their script is still on its way, after a way back, and again."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect


@pytest.fixture
def begin(furnished, open_browser, log_in):
    """Opens a demonstration for liv; the script comes when ``arrive`` is called."""

    def go() -> tuple[Page, list]:
        page = open_browser()
        log_in(page, furnished.url, "liv")
        held: list = []
        page.route("**/static/work.js", lambda route: held.append(route))
        page.get_by_role("link", name="Answers, fast").click()
        page.get_by_role("button", name="Write a demonstration").click(no_wait_after=True)
        expect(page.get_by_label("Your response")).to_be_visible()
        return page, held

    return go


def first_of(page: Page, held: list) -> Route:
    """The request that is held back, as soon as it has come."""
    for _ in range(18_000):
        if held:
            return held[0]
        page.wait_for_timeout(10)
    return pytest.fail("the page never asked for its script")


def arrive(page: Page, held: list) -> None:
    """Lets the script through."""
    first_of(page, held).continue_()
    page.wait_for_load_state()
    page.unroute("**/static/work.js")


def test_what_is_typed_before_the_script_has_come_is_saved(begin):
    page, held = begin()
    page.get_by_label("Your response").fill("Typed at once.")
    expect(page.locator("#saved")).to_have_text("Nothing to save yet")
    arrive(page, held)
    expect(page.locator("#saved")).to_have_text(re.compile(r"^Saved \d"))
    page.reload()
    expect(page.get_by_label("Your response")).to_have_value("Typed at once.")
    expect(page.locator("#saved")).to_contain_text("Draft saved")


def test_a_form_that_is_sent_before_the_script_has_come_is_kept(begin):
    page, _ = begin()
    address = page.url
    page.get_by_label("Your response").fill("Typed and sent at once.")
    page.get_by_role("button", name="Submit and next").click(no_wait_after=True)
    expect(page.get_by_text("Submitted.")).to_be_visible()
    assert page.url.split("?")[0] != address.split("?")[0]


def test_a_screening_text_that_is_typed_before_the_script_has_come_is_saved(
    furnished, open_browser, log_in
):
    page = open_browser()
    log_in(page, furnished.url, "liv")
    page.get_by_role("link", name="Answers, at work").click()
    page.get_by_role("link", name="To the test").click()
    held: list = []
    page.route("**/static/screening.js", lambda route: held.append(route))
    page.get_by_role("link", name="writing a response").click(no_wait_after=True)
    page.get_by_label("Your response").fill("Typed at once.")
    first_of(page, held).continue_()
    expect(page.locator("#saved")).to_have_text(re.compile(r"^Saved \d"))


@pytest.fixture
def at_work(furnished, open_browser, log_in):
    """Opens lea's next task, and waits until all of its page has come."""

    def go(project: str, button: str) -> Page:
        page = open_browser()
        log_in(page, furnished.url, "lea")
        page.get_by_role("link", name=project).click()
        page.get_by_role("button", name=button).click()
        page.wait_for_load_state()
        return page

    return go


def test_the_way_back_shows_what_the_server_has_and_says_so(furnished, at_work):
    page = at_work("Answers, fast", "Write a demonstration")
    response = page.get_by_label("Your response")
    response.fill("What was saved.")
    expect(page.locator("#saved")).to_have_text(re.compile(r"^Saved \d"))
    # In the page itself: a route does not stop what a page sends while it goes away.
    page.evaluate("void (window.fetch = () => Promise.reject(new TypeError('no network')))")
    response.fill("What never arrived.")
    expect(page.locator("#saved")).to_contain_text("Not saved: no connection")
    page.goto(furnished.url)
    page.go_back()
    expect(response).to_have_value("What was saved.")
    expect(page.locator("#saved")).to_contain_text("Draft saved")


def counted(page: Page) -> float:
    """The seconds of work that the page has counted."""
    return page.evaluate("Number(document.querySelector('[name=active_s]').value)")


def work_until(page: Page, seconds: float) -> None:
    """Scrolls until the page has counted so many seconds."""
    for _ in range(900):
        if counted(page) >= seconds:
            return
        page.mouse.wheel(0, 10)
        page.wait_for_timeout(200)
    pytest.fail(f"the page has counted {counted(page)} of {seconds} seconds")


def test_a_page_that_comes_back_counts_the_seconds_on(at_work):
    page = at_work("Answers, strict", "Rate and rank")
    work_until(page, 2)
    page.evaluate("document.getElementById('work').noValidate = true")
    page.get_by_role("button", name="Submit and next").click()
    expect(page.get_by_text("This is not complete yet")).to_be_visible()
    assert counted(page) >= 2
    page.wait_for_load_state()
    work_until(page, 4)


def test_a_task_that_is_opened_again_counts_the_seconds_on(at_work):
    page = at_work("Answers, fast", "Write a demonstration")
    work_until(page, 2)
    page.get_by_label("Your response").fill("Half of it.")
    expect(page.locator("#saved")).to_have_text(re.compile(r"^Saved \d"))
    page.goto(page.url)
    assert counted(page) >= 2
