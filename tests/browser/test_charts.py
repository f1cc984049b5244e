"""Charts on researchers' pages: seen, read out, their numbers opened, without a violation."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

PAGES = {
    "": {"Answers given, and still wanted", "Submitted by day"},
    "/labelers": {
        "Agreement, strict",
        "Ties",
        "Position: first shown is best",
        "Length: longer preferred",
    },
    "/prompts": {"Use cases", "Said of prompts"},
}


@pytest.mark.parametrize("path", PAGES)
def test_charts_are_accessible_in_both_looks(path, furnished, open_browser, log_in, violations):
    page = open_browser()
    log_in(page, furnished.url, "rea")
    page.goto(f"{furnished.url}/admin")
    page.get_by_role("link", name="Answers, at work").click()
    page.goto(page.url + path)
    titles = page.locator("figure.plot figcaption").all_inner_texts()
    assert set(titles) == PAGES[path]
    for number, title in enumerate(titles):
        figure = page.locator("figure.plot").nth(number)
        # A picture with a name and a description, and the same numbers as a table.
        expect(figure.get_by_role("img", name=title)).to_be_visible()
        assert len(figure.locator("svg desc").text_content()) > 20
        figure.get_by_text("Numbers", exact=True).click()
        expect(figure.get_by_role("table")).to_be_visible()
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert violations(page, ["color-contrast", "scrollable-region-focusable"]) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if path == "/labelers":
        colours = page.evaluate("getComputedStyle(document.querySelector('.plot .dot')).fill")
        assert colours == "rgb(116, 179, 242)"
