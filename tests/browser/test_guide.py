"""The pages that the guide shows. HEEDFUL_SCREENSHOTS=docs/labeling takes their pictures."""

from __future__ import annotations

from playwright.sync_api import expect

PHONE = {"viewport": {"width": 390, "height": 760}, "has_touch": True, "is_mobile": True}
GUIDE = {"viewport": {"width": 1200, "height": 760}}


def test_pages_of_labelers(furnished, open_browser, log_in, picture):
    page = open_browser(**GUIDE)
    log_in(page, furnished.url, "lea")
    page.get_by_role("link", name="Answers, strict").click()
    page.get_by_role("button", name="Rate and rank").click()
    expect(page.get_by_role("heading", name="Output D")).to_be_visible()
    for place, rank in enumerate((2, 1, 2, 4)):
        page.locator(f"[name='ranks.{place}'][value='{rank}']").check()
        page.locator(f"[name='ratings.{place}'][value='{7 - rank}']").check()
    expect(page.locator("#saved")).to_contain_text("Saved")
    page.evaluate("scrollTo(0, 0)")
    picture(page, "rating")
    page.locator(".shelves").evaluate("one => one.scrollIntoView({block: 'center'})")
    expect(page.locator(".shelf", has_text="Rank 2").locator(".rank-card")).to_have_count(2)
    picture(page, "ranking")
    page.emulate_media(color_scheme="dark")
    page.goto(f"{furnished.url}/")
    page.get_by_role("link", name="Answers, fast").click()
    page.get_by_role("button", name="Write a demonstration").click()
    page.get_by_label("Your response").fill("Leaves need light and water. In autumn there is")
    expect(page.locator("#saved")).to_contain_text("Saved")
    picture(page, "demonstration")

    phone = open_browser(**PHONE)
    log_in(phone, furnished.url, "leo")
    phone.get_by_role("link", name="Answers, fast").click()
    phone.get_by_role("button", name="Rate and rank").click()
    phone.locator(".output").nth(1).evaluate("one => one.scrollIntoView({block: 'start'})")
    phone.locator("[name='ranks.1'][value='1']").check()
    phone.locator("[name='ratings.1'][value='6']").check()
    picture(phone, "phone")


def test_pages_of_researchers(furnished, open_browser, log_in, picture):
    page = open_browser(**GUIDE)
    log_in(page, furnished.url, "rea")
    page.get_by_role("link", name="Answers, at work").click()
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    picture(page, "project")
    page.get_by_role("link", name="Labelers", exact=True).click()
    expect(page.get_by_role("rowheader", name="Gus")).to_be_visible()
    picture(page, "labelers", full_page=True, clip={"x": 0, "y": 0, "width": 1200, "height": 1150})
    page.get_by_role("link", name="Screening", exact=True).click()
    page.get_by_role("row").filter(has_text="4 of 4").get_by_role("link").click()
    expect(page.get_by_role("heading", name="Decision")).to_be_visible()
    picture(page, "candidate")
