"""Disagreements side by side, decisions about them, and gold that nobody is told of."""

from __future__ import annotations

import re

from heedful.store import history
from heedful.store.disputes import opposite_pairs

FIRST, TASKS = "/admin/projects/1", "/admin/projects/1/tasks"


def rank_all(house, name, key):
    """Ranks every task that ``name`` is given by ``key`` of an output's text."""
    browser = house.browser(name)
    page = house.begin(browser, "ranking")
    while page.path.startswith("/work/"):
        shown = re.findall(r'<div class="text answer">(.*?)</div>', page.html)
        order = sorted(range(3), key=lambda place: key(shown[place]))
        ranks = [1 + order.index(place) for place in range(3)]
        action = f"{page.path}/submit"
        sent = house.ranked(ranks, [8 - rank for rank in ranks])
        page = browser.post(action, page.form(action) | sent)


def shared(house, completions_file):
    """Two labelers, two tasks: on one of them the outputs are ranked in opposite orders."""
    ada = house.browser("ada")
    ada.submit(ada.get(FIRST), f"{FIRST}/settings", overlap_percent="100", overlap_n="2")
    house.load(completions_file)
    for name in ("lea", "leo"):
        house.person(name)
    rank_all(house, "lea", lambda text: text)
    # A-Z as well, but Z-A where the task is about trees.
    rank_all(
        house,
        "leo",
        lambda text: [-ord(c) for c in text] if text in TREES else list(map(ord, text)),
    )
    return ada


TREES = ("An oak.", "An elm.", "A rock.")


def test_pairs_in_opposite_order_are_counted_by_hand():
    # ab: the same; ac: opposite; bc: one tied.
    assert opposite_pairs([[1, 2, 2], [2, 3, 1]]) == (1, 2)
    assert opposite_pairs([[1, 2], [2, 1], [1, 1]]) == (1, 1)
    assert opposite_pairs([[1, 2, 3]]) == (0, 0)


def test_a_dispute_is_seen_side_by_side_and_decided(house, completions_file):
    ada = shared(house, completions_file)
    page = ada.get(TASKS)
    (link,) = [one for one in page.links if re.fullmatch(rf"{TASKS}/\d+", one)]
    assert "Name a tree." in page.text and "3 of 3" in page.text and "bird" not in page.text
    page = ada.get(link)
    assert "3 of 3 pairs" in page.text and page.text.count("labeler-") == 2
    assert "CANARY-model" not in page.html and not re.search(r"\b(lea|leo)\b", page.html)
    assert "rank 3, rated 5" in re.sub(r"\s+", " ", page.text)
    decision = f"{link}/decision"
    assert ada.submit(page, decision, ranks__0="1", ranks__1="2").status == 422
    sent = {"ranks__0": "1", "ranks__1": "2", "ranks__2": "2", "note": "By <height>"}
    page = ada.submit(page, decision, **sent)
    assert page.path == link and "By <height>" in page.text and "By &lt;height&gt;" in page.html
    assert "There are none." in ada.get(TASKS).text
    assert link in ada.get(f"{TASKS}?view=decided").links
    with house.database.read() as connection:
        (answer,) = history.reference_answers(connection, 1, adjudicated=True).values()
        assert history.reference_answers(connection, 1) == {}
    assert answer == {"ranks": [1, 2, 2]}
    house.person("rev", "reviewer")
    rev = house.browser("rev")
    page = rev.get(link)
    assert page.status == 200 and decision not in [form.action for form in page.forms]
    token = page.forms[0].fields["token"]
    assert rev.post(decision, {"token": token, "ranks.0": "1"}).status == 404


def test_gold_measures_labelers_and_they_cannot_tell(house, completions_file):
    ada = house.browser("ada")
    house.load(completions_file)
    page = ada.get(f"{TASKS}?view=all")
    first = next(one for one in page.links if re.fullmatch(rf"{TASKS}/\d+", one))
    page = ada.get(first)
    ranks = {"ranks__0": "1", "ranks__1": "2", "ranks__2": "3"}
    page = ada.submit(page, f"{first}/decision", to=f"{first}/gold", **ranks)
    assert ": gold" in page.text and first in ada.get(f"{TASKS}?view=gold").links
    ada.submit(ada.get(FIRST), f"{FIRST}/settings", gold_percent="100")
    house.person("lea")
    lea = house.browser("lea")
    gold = house.begin(lea, "ranking")
    assert "bird" in gold.text  # the first task, and given before the other
    shown = re.findall(r'<div class="text answer">(.*?)</div>', gold.html)
    right = {"A heron.": 1, "A fish!": 2, "&lt;script&gt;alert(1)&lt;/script&gt;": 3}
    action = f"{gold.path}/submit"
    sent = house.ranked([right[one] for one in shown], [4, 4, 4])
    ordinary = lea.post(action, gold.form(action) | sent)
    if not ordinary.path.startswith("/work/"):
        ordinary = house.begin(lea, "ranking")
    assert "tree" in ordinary.text
    # The two pages are made of the same tags with the same names: nothing tells gold from work.
    kinds = [[(tag, sorted(given)) for tag, given in page.tags] for page in (gold, ordinary)]
    for tags in kinds:
        del tags[: tags.index(("h1", []))]
    undo = [i for i, (tag, names) in enumerate(kinds[1]) if tag == "form" and "class" in names]
    assert not undo or kinds[1][undo[0]] == ("form", ["action", "class", "method"])
    assert not re.search(r"(?i)\bgold\b", gold.html + ordinary.html + lea.get("/projects/1").html)
    text = ada.get(f"{FIRST}/labelers").text
    assert "100.0%" in text  # of the pairs that gold orders
    page = ada.submit(ada.get(first), f"{first}/work")
    assert ": gold" not in page.text
    again = page.forms[0].fields
    assert ada.post(f"{first}/work", again).status == 409


def test_tasks_of_other_projects_are_not_found(house, completions_file):
    ada = house.browser("ada")
    house.load(completions_file)
    ada.submit(ada.get("/admin"), "/admin/projects", name="second")
    assert ada.get("/admin/projects/2/tasks/1").status == 404
    assert ada.get(f"{TASKS}?view=secret").status == 404
    assert ada.get(f"{TASKS}/99").status == 404
