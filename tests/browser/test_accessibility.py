"""WCAG 2.2 AA on every page: axe-core finds nothing, light and dark, wide and on a phone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from heedful.labeling.access import RULES

# Every page that can be asked for, the exact addresses before the patterns.
PAGES = sorted(
    (rule.removeprefix("GET ") for rule in RULES if rule.startswith("GET ")),
    key=lambda path: path.count("{"),
)
NO_PAGES = {"/health", "/", "/admin/projects/{project_id}/snapshots/{number}/{name}"}
WIDE, PHONE, SMALL = (1280, 900), (390, 844), (320, 640)
# What depends on colours and sizes; the other rules find the same in every look.
BY_LOOK = ["color-contrast", "target-size", "scrollable-region-focusable"]


def route_of(address: str) -> str:
    """The route of an address of the service, or the path where there is none."""
    path = "/" + re.sub(r"[?#].*", "", address).split("/", 3)[3]
    for route in PAGES:
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route)), path):
            return route
    return path


def resize(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})


class Inspector:
    """Checks pages as they stand, and keeps what it found and where it was."""

    def __init__(self, violations):
        self.violations, self.problems, self.seen = violations, [], set()

    def check(self, page: Page) -> None:
        page.wait_for_load_state()
        page.emulate_media(color_scheme="light")
        self.problems += [f"wide, light: {one}" for one in self.violations(page)]
        page.emulate_media(color_scheme="dark")
        resize(page, PHONE)
        self.problems += [f"phone, dark: {one}" for one in self.violations(page, BY_LOOK)]
        # Nothing but tables, in boxes of their own, is wider than a small window (WCAG 1.4.10).
        resize(page, SMALL)
        if (wide := page.evaluate("document.documentElement.scrollWidth")) > SMALL[0]:
            self.problems.append(f"{page.url} is {wide} px wide")
        resize(page, WIDE)
        self.seen.add(route_of(page.url))

    def crawl(self, page: Page) -> None:
        """Checks this page, and one of each kind that its links lead to, and so on."""
        todo, known = [page.url], set()
        while todo:
            address = todo.pop()
            if route_of(address) in known | NO_PAGES - {"/"}:
                continue
            page.goto(address)
            known |= {route_of(address), route_of(page.url)}
            self.check(page)
            todo += page.eval_on_selector_all("a[href]", "all => all.map(one => one.href)")


@pytest.fixture
def inspector(violations):
    return Inspector(violations)


def look_at_work(page: Page, inspector: Inspector, url: str) -> None:
    """The pages of tasks, also with a problem, a doubt, and a submission just made."""
    page.goto(url)
    page.get_by_role("link", name="Answers, strict").click()
    project = page.url
    page.get_by_role("button", name="Write a demonstration").click()
    inspector.check(page)
    page.goto(project)
    page.get_by_role("button", name="Rate and rank").click()
    inspector.check(page)
    for place in range(4):
        page.locator(f"[name='ranks.{place}'][value='2']").check()
        page.locator(f"[name='ratings.{place}'][value='{place + 2}']").check()
        page.get_by_role("button", name="No to all").nth(place).click()
        page.locator(f"[name='ratings.{place}.satisfies_constraint'][value='yes']").check()
    page.get_by_role("button", name="Submit and next").click()
    expect(page.get_by_role("alert")).to_be_visible()
    inspector.check(page)
    page.get_by_role("button", name="Submit and next").click()
    expect(page.get_by_text("Submitted.")).to_be_visible()
    inspector.check(page)
    page.evaluate("document.querySelectorAll('[required]').forEach(one => one.required = false)")
    page.get_by_role("button", name="Submit and next").click()
    expect(page.get_by_text("This is not complete yet")).to_be_visible()
    inspector.check(page)


def look_at_writing(page: Page, inspector: Inspector, url: str) -> None:
    """The pages of the three kinds of prompts that labelers write, one after the other."""
    page.goto(url)
    page.get_by_role("link", name="Answers, at work").click()
    page.get_by_role("button", name="Write a prompt").click()
    for _ in range(3):
        inspector.check(page)
        before = page.url
        page.get_by_role("button", name="Skip").click()
        page.wait_for_url(lambda now, before=before: before not in now)


def test_every_page_is_accessible(furnished, open_browser, log_in, inspector):
    url = furnished.url
    ada, ann, lea, liv, stranger = (open_browser() for _ in range(5))
    for page, name in ((ada, "ada"), (ann, "ann"), (lea, "lea"), (liv, "liv")):
        log_in(page, url, name)
    for path in ("/login", "/nowhere"):
        stranger.goto(f"{url}{path}")
        inspector.check(stranger)
    look_at_work(lea, inspector, url)
    look_at_writing(ann, inspector, url)
    liv.get_by_role("link", name="Answers, at work").click()
    inspector.crawl(liv)  # to her screening
    ann.goto(url)
    ann.get_by_role("link", name="Answers, at work").click()
    inspector.crawl(ann)

    ada.get_by_role("link", name="Answers, at work").click()
    ada.get_by_role("button", name="Make a snapshot").click()
    inspector.crawl(ada)
    ada.goto(f"{url}/admin")
    ada.get_by_role("link", name="Answers, at work").click()
    ada.get_by_role("link", name="Labelers", exact=True).click()
    ada.get_by_label("E-mail").fill("new@example.org")
    ada.get_by_role("button", name="Make a link").click()
    inspector.check(ada)
    stranger.goto(ada.locator("code").inner_text())
    inspector.check(stranger)
    ada.goto(f"{url}/admin/people")
    ada.get_by_role("button", name="Make a link for a new password of Leo").click()
    inspector.check(ada)
    (link,) = re.findall(r"http\S+/password/\S+", ada.locator(".notice").inner_text())
    stranger.goto(link)
    inspector.check(stranger)
    ada.goto(f"{url}/account/second-factor")
    ada.get_by_role("button", name="Set it up").click()
    inspector.check(ada)
    if inspector.problems:
        pytest.fail("\n".join(inspector.problems))
    assert set(PAGES) - inspector.seen - NO_PAGES == set()
