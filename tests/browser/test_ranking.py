"""Ranking with ties: by mouse, by finger, by keyboard alone, on a phone, and without a network."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from heedful.records import METADATA_FIELDS

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def begin(furnished, open_browser, log_in):
    """Opens the next ranking task of a labeler."""

    def go(name, mode="fast", **settings):
        page = open_browser(**settings)
        log_in(page, furnished.url, name)
        page.get_by_role("link", name=f"Answers, {mode}").click()
        page.get_by_role("button", name="Rate and rank").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Rate and rank 4 outputs")
        page.wait_for_load_state()  # the keys are those of the page's scripts
        return page

    return go


def ranks(page: Page) -> list[str | None]:
    """The rank of every output by the radio buttons, which are what is sent."""
    return page.evaluate(
        "[0, 1, 2, 3].map(n => document.querySelector(`[name='ranks.${n}']:checked`)?.value)"
    )


def shelf_of(page: Page, letter: str) -> str:
    """The name of the shelf where an output stands."""
    card = page.locator(".rank-card", has=page.locator(".letter", has_text=letter))
    return page.locator(".shelf", has=card).locator(".shelf-name").inner_text()


def drag(page: Page, letter: str, shelf: str) -> None:
    """Drags an output by its letter with the mouse, in steps as a hand does."""
    page.locator(".letter", has_text=letter).scroll_into_view_if_needed()
    target = page.locator(".shelf", has_text=shelf).locator(".shelf-row")
    start = page.locator(".letter", has_text=letter).bounding_box()
    end = target.bounding_box()
    page.mouse.move(start["x"] + 10, start["y"] + 10)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=8)
    page.mouse.up()


def saved(page: Page) -> None:
    expect(page.locator("#saved")).to_have_text(re.compile(r"^Saved \d"))


def test_ranks_by_mouse_have_ties_and_are_saved(begin, submit):
    page = begin("lea")
    page.locator(".shelves").scroll_into_view_if_needed()
    drag(page, "C", "Rank 1")
    drag(page, "A", "Rank 2")
    drag(page, "B", "Rank 2")
    drag(page, "D", "Rank 4")
    assert ranks(page) == ["2", "2", "1", "4"]
    expect(page.locator("#said")).to_have_text("Output D, rank 4")
    drag(page, "D", "To be ranked")
    assert ranks(page) == ["2", "2", "1", None]
    expect(page.locator("#said")).to_have_text("Output D, to be ranked")
    drag(page, "D", "Rank 2")
    expect(page.locator("#said")).to_have_text("Output D, rank 2, tied with A, B")
    saved(page)
    page.reload()
    assert ranks(page) == ["2", "2", "1", "2"] and shelf_of(page, "D") == "Rank 2"
    submit(page)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("[name='ranks.2']:checked")).to_have_value("1")
    assert ranks(page) == ["2", "2", "1", "2"]


def test_a_card_follows_the_radio_buttons(begin):
    page = begin("lea")
    page.locator("[name='ranks.0'][value='3']").check()
    assert shelf_of(page, "A") == "Rank 3"
    # Without moving far it is a click, and nothing is dropped outside the shelves.
    page.locator(".letter", has_text="A").click()
    assert shelf_of(page, "A") == "Rank 3"
    box = page.locator(".letter", has_text="A").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(5, 5, steps=5)
    page.mouse.up()
    assert shelf_of(page, "A") == "Rank 3"


def test_a_strict_answer_by_keyboard_alone(begin, submit):
    page = begin("leo", "strict")
    press = page.keyboard.press
    for _ in range(60):
        if page.evaluate("document.activeElement.name === 'ranks.0'"):
            break
        press("Tab")
    for _ in range(4):
        press("Space")  # the first rank
        press("Tab")  # to the ratings
        for _ in range(4):
            press("ArrowRight")
        assert page.evaluate("document.activeElement.value") in ("4", "5")
        press("Tab")  # the summary of the questions
        press("Tab")
        assert page.evaluate("document.activeElement.textContent").startswith("No to all")
        press("Enter")
        while not page.evaluate("document.activeElement.matches('textarea')"):
            if page.evaluate("document.activeElement.name?.endsWith('.satisfies_constraint')"):
                press("Space")  # yes: the button leaves it to us
            press("Tab")
        press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Rank by my ratings"
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "rank-card"
    press("ArrowDown")  # A from rank 1 to 2
    assert ranks(page) == ["2", "1", "1", "1"]
    press("Shift+Tab")  # the last of those on the shelf above
    press("4")
    assert ranks(page) == ["2", "1", "1", "4"]
    assert page.evaluate("document.activeElement.textContent").startswith("D")
    submit(page, "Control+Enter")


def test_number_keys_are_off_until_they_are_asked_for(begin):
    page = begin("leo")
    page.locator(".output").first.focus()
    page.keyboard.press("3")
    assert ranks(page) == [None] * 4
    page.get_by_label("rank", exact=True).check()
    page.locator(".output").first.focus()
    for key in "3jj1k2":
        page.keyboard.press(key)
    assert ranks(page) == ["3", "2", "1", None]


def at_rest(page: Page) -> None:
    """Waits until the page has stood still for half a second."""
    seen = []
    while len(seen) < 6 or len(set(seen[-6:])) > 1:
        seen.append(page.evaluate("window.scrollY"))
        page.wait_for_timeout(100)


def test_a_finger_scrolls_and_ranks_only_by_the_letter(begin):
    page = begin("liv", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finger = page.context.new_cdp_session(page)

    def swipe(start, end):
        points = [
            (start[0] + (end[0] - start[0]) * n / 8, start[1] + (end[1] - start[1]) * n / 8)
            for n in range(9)
        ]
        for number, (x, y) in enumerate(points):
            kind = "touchMove" if number else "touchStart"
            touch = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
            finger.send("Input.dispatchTouchEvent", touch)
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def middle(locator):
        box = locator.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    page.evaluate("document.querySelector('.shelves').scrollIntoView({block: 'start'})")
    excerpt = page.locator(".rank-card .excerpt").first
    target = middle(page.locator(".shelf", has_text="Rank 1"))
    swipe(middle(excerpt), target)
    assert ranks(page) == [None] * 4
    at_rest(page)  # it may still roll on
    page.evaluate("document.querySelector('.shelves').scrollIntoView({block: 'start'})")
    at_rest(page)
    swipe(
        middle(page.locator(".letter", has_text="A")),
        middle(page.locator(".shelf", has_text="Rank 1")),
    )
    expect(page.locator("[name='ranks.0'][value='1']")).to_be_checked()
    assert ranks(page) == ["1", None, None, None]
    saved(page)


def test_nothing_is_lost_when_the_network_goes(begin):
    page = begin("leo", "strict")
    page.context.set_offline(True)
    for place in range(4):
        page.locator(f"[name='ranks.{place}'][value='{min(place + 1, 3)}']").check()
        page.locator(f"[name='ratings.{place}'][value='{6 - place}']").check()
    page.get_by_role("button", name="No to all that are not answered").first.click()
    note = page.get_by_label("Notes on the whole (optional)")
    note.fill("written in a tunnel")
    expect(page.locator("#saved")).to_contain_text("Not saved: no connection")
    page.get_by_role("button", name="Skip").click()
    expect(page.locator("#saved")).to_contain_text("Not sent.")
    expect(note).to_have_value("written in a tunnel")
    page.wait_for_timeout(4000)  # the next try to save has failed as well
    expect(page.locator("#saved")).to_contain_text("Not sent.")
    page.context.set_offline(False)
    saved(page)
    page.reload()
    expect(page.get_by_label("Notes on the whole (optional)")).to_have_value("written in a tunnel")
    assert ranks(page) == ["1", "2", "3", "3"]
    answered = page.locator(".output").first.locator(".yes-no input:checked")
    expect(answered).to_have_count(len(METADATA_FIELDS) - 1)  # the constraint is left to us


def test_r_ranks_by_the_ratings_as_a_first_order(begin, submit):
    page = begin("lea")
    # other tests may have left this task half done
    page.evaluate("""for (const one of document.querySelectorAll("[name='ratings.3']"))
        one.checked = false""")
    for place, rating in enumerate((4, 6, 4)):  # the last output is not rated
        page.locator(f"[name='ratings.{place}'][value='{rating}']").check()
    for place, rank in enumerate((1, 3, 3, 4)):
        page.locator(f"[name='ranks.{place}'][value='{rank}']").check()
    page.keyboard.press("r")  # keys are off
    assert ranks(page) == ["1", "3", "3", "4"]
    page.get_by_label("rank", exact=True).check()
    page.locator(".output").first.focus()
    page.keyboard.press("r")
    assert ranks(page) == ["2", "1", "2", "4"] and shelf_of(page, "B") == "Rank 1 (best)"
    expect(page.locator("#said")).to_contain_text("Ranked by your ratings")
    page.keyboard.press("r")
    assert ranks(page) == ["1", "3", "3", "4"] and shelf_of(page, "B") == "Rank 3"
    page.get_by_role("button", name="Rank by my ratings").click()
    page.locator("[name='ranks.3'][value='3']").check()  # changed by hand: nothing to go back to
    page.get_by_role("button", name="Rank by my ratings").click()
    assert ranks(page) == ["2", "1", "2", "3"]
    saved(page)
    page.reload()
    assert page.locator("[name='prefilled']").input_value() == "on"
    submit(page)


def test_long_outputs_stand_side_by_side_and_scroll_together(begin, violations):
    page = begin("leo")
    page.evaluate("""for (const [place, one] of document.querySelectorAll(".answer").entries())
        one.textContent = `Line of output ${place}\n`.repeat(60 + 40 * place)""")
    page.get_by_label("Outputs side by side").check()
    first, second = (page.locator(".answer").nth(place) for place in (0, 1))
    boxes = first.bounding_box(), second.bounding_box()
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    assert boxes[0]["height"] == boxes[1]["height"]
    share = "one => one.scrollTop / (one.scrollHeight - one.clientHeight)"
    second.evaluate("one => { one.scrollTop = (one.scrollHeight - one.clientHeight) / 2; }")
    for _ in range(50):  # wait_for_function would evaluate text in the page, which its rules forbid
        if first.evaluate(share) > 0.4:
            break
        page.wait_for_timeout(100)
    for place in range(4):
        found = page.locator(".answer").nth(place).evaluate(share)
        assert found == pytest.approx(0.5, abs=0.01), place
    assert violations(page, ["scrollable-region-focusable", "aria-allowed-role"]) == []
    page.get_by_label("Outputs side by side").uncheck()
    assert first.evaluate("one => one.scrollHeight - one.clientHeight") == 0
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.get_by_label("Outputs side by side")).to_be_hidden()


def test_keys_and_view_are_kept_for_the_next_task(begin):
    page = begin("liv")
    expect(page.locator(".output.marked")).to_have_count(0)
    page.get_by_label("rank", exact=True).check()
    page.get_by_label("Outputs side by side").check()
    expect(page.locator(".output.marked h2")).to_have_text("Output A")
    page.reload()
    expect(page.get_by_label("rank", exact=True)).to_be_checked()
    expect(page.locator(".outputs.together")).to_have_count(1)
    expect(page.locator(".output.marked h2")).to_have_text("Output A")
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("4")  # at once, without a look for the place to click
    assert ranks(page)[0] == "4"
    page.get_by_label("off", exact=True).check()
    page.get_by_label("Outputs side by side").uncheck()
    page.reload()
    expect(page.get_by_label("off", exact=True)).to_be_checked()
    expect(page.locator(".outputs.together")).to_have_count(0)
    expect(page.locator(".output.marked")).to_have_count(0)


def test_keys_work_where_the_browser_keeps_nothing(begin):
    page = begin("liv")
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })"
    )
    page.reload()
    page.get_by_label("rank", exact=True).check()
    page.keyboard.press("3")
    assert ranks(page)[0] == "3"


def test_no_to_all_never_answers_whether_the_constraint_is_met(begin):
    page = begin("lea", "strict")
    button = page.get_by_role("button", name="No to all that are not answered").first
    assert button.inner_text().endswith("but not to the constraint")
    page.locator("[name='ratings.0.violent'][value='yes']").check()
    button.click()
    asked = {name: f"[name='ratings.0.{name}']:checked" for name in METADATA_FIELDS}
    told = {name: page.locator(path) for name, path in asked.items()}
    expect(told.pop("satisfies_constraint")).to_have_count(0)
    expect(told.pop("violent")).to_have_value("yes")
    for answer in told.values():
        expect(answer).to_have_value("no")
