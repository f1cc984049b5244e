"""The screening test from its items to the decision, over the pages of both sides."""

from __future__ import annotations

import json
import re

import pytest

from heedful.store import audit, people, screening

ADMIN = "/admin/projects/1/screening"
TEST = "/projects/1/screening"
ITEMS = [
    {
        "kind": "flags",
        "content": {
            "prompt": "A <b>text</b>",
            "output": "An output",
            "questions": ["pii", "Rude?"],
        },
        "truth": {"pii": True, "Rude?": False},
    },
    {
        "kind": "ranking",
        "content": {"prompt": "Name a bird", "outputs": ["A heron.", "A bird.", "A fish."]},
        "truth": [1, 2, 3],
    },
    {"kind": "demonstration", "content": {"prompt": "Say no kindly"}},
    {"kind": "topics", "content": {"question": "Which topics?"}},
]


def send_items(browser, rows):
    """The page after a file of items was sent."""
    page = browser.get(ADMIN)
    fields = page.form(f"{ADMIN}/items/import")
    fields.pop("file", None)
    content = "\n".join(json.dumps(row) for row in rows).encode()
    files = {"file": ("items.jsonl", content)}
    return browser.post(f"{ADMIN}/items/import", fields, files=files)


def take(browser, ranks, flags=("yes", "no"), text="I would rather not."):
    """The page after a whole test: ``ranks`` by the outputs' texts."""
    page = browser.get(TEST)
    address = next(form.action for form in page.forms if form.action.startswith(f"{TEST}/"))
    page = browser.get(address)
    for _ in ITEMS:
        sent = {f"flags.{place}": value for place, value in enumerate(flags)} | {"text": text}
        shown = re.findall(r'<div class="text answer">(.*?)</div>', page.html)
        sent |= {f"ranks.{place}": str(ranks[one]) for place, one in enumerate(shown)}
        page = browser.post(page.path, page.form(page.path) | sent)
    assert page.path == TEST
    return browser.submit(page, TEST)


@pytest.fixture
def tested(house):
    """A project with one item of each kind."""
    assert "4 items were added" in send_items(house.browser("ada"), ITEMS).text
    return house


def test_from_the_items_to_the_work(tested):
    house = tested
    house.load(b'{"id": "p", "text": "Say hello"}\n', what="prompts")
    house.person("lea")
    lea = house.browser("lea")
    page = lea.get("/projects/1")
    assert "there is a test" in page.text and not [f for f in page.forms if "kind" in f.fields]
    sent = {"token": page.forms[0].fields["token"], "kind": "demonstration"}
    assert lea.post("/projects/1/next", sent).status == 404  # no work before the decision
    assert "may be hateful" in lea.get(TEST).text
    page = take(lea, {"A heron.": 1, "A bird.": 1, "A fish.": 3}, flags=("yes", "yes"))
    assert "handed the test in" in page.text
    assert lea.get(f"{TEST}/1").path == TEST  # no more changes
    assert lea.post(f"{TEST}/1", sent | {"flags.0": "no", "flags.1": "no"}).status == 409

    house.person("rev", "reviewer")
    rev, ada = house.browser("rev"), house.browser("ada")
    page = rev.get(ADMIN)
    (link,) = [one for one in page.links if "/candidate-" in one]
    # 1 of 2 flags; heron before fish, bird before fish, heron and bird tied: 2.5 of 3 pairs.
    assert "50.0%" in page.text and "83.3%" in page.text and "below the cut-off" in page.text
    page = rev.get(link)
    assert "I would rather not." in page.text and "Which topics?" in page.text
    score = next(given["name"] for _, given in page.tags if given.get("name", "").startswith("sc"))
    rev.submit(page, f"{link}/grades", **{score: "7"})
    page = ada.get(link)
    assert "Scores of others: 1." in page.text and "Scores of all" not in page.text
    page = ada.submit(page, f"{link}/grades", **{score: "6"})
    assert "Scores of all: 7, 6" in page.text or "Scores of all: 6, 7" in page.text
    assert "6.50" in page.text
    assert rev.post(f"{link}/decision", rev.get(link).forms[-1].fields).status == 404
    page = ada.submit(page, f"{link}/decision", decision="accept", note="CANARY-note <i>")
    assert page.path == ADMIN
    page = house.begin(lea, "demonstration")
    assert page.path.startswith("/work/")
    for address in ("/", "/projects/1", TEST, "/account"):
        assert "CANARY" not in lea.get(address).html


def test_a_candidate_who_is_not_taken_on_gets_no_work_and_can_be_later(tested):
    house = tested
    house.person("lea")
    lea, ada = house.browser("lea"), house.browser("ada")
    (link,) = [one for one in ada.get(ADMIN).links if "/candidate-" in one]
    assert "not handed in yet" in ada.get(link).text
    token = {"token": ada.get(link).forms[0].fields["token"]}
    assert ada.post(f"{link}/decision", token | {"decision": "accept"}).status == 409
    take(lea, {"A heron.": 3, "A bird.": 2, "A fish.": 1})
    assert ada.post(f"{link}/decision", token | {"decision": "maybe"}).status == 422
    ada.submit(ada.get(link), f"{link}/decision", decision="reject")
    assert "do not take you on" in lea.get(TEST).text
    assert "State: not taken on." in ada.get(link).text
    assert "0.0%" in ada.get(link).text
    with house.database.read() as connection:
        assert people.membership(connection, 1, 2).state == "rejected"
    labelers = "/admin/projects/1/labelers"
    sent = token | {"user_id": "2", "state": "active"}
    assert ada.post(labelers, sent).status == 422  # only by a decision
    ada.submit(ada.get(link), f"{link}/decision", decision="accept")
    with house.database.read() as connection:
        assert people.membership(connection, 1, 2).state == "active"


def test_those_who_judge_see_no_name_and_no_number(tested):
    house = tested
    for name in ("lea", "leo", "lin"):
        house.person(name)
    take(house.browser("leo"), {"A heron.": 1, "A bird.": 2, "A fish.": 3})
    ada = house.browser("ada")
    page = ada.get(ADMIN)
    links = [one for one in page.links if "/candidate-" in one]
    assert len(links) == 3 and links == sorted(links)
    for seen in (page, *(ada.get(link) for link in links)):
        assert not re.search(r"\b(lea|leo|lin)\b", seen.html), seen.path
    assert ada.get(f"{ADMIN}/candidate-00000000").status == 404


def test_candidates_see_no_truth_and_not_the_order_it_was_typed_in(tested):
    house = tested
    other = [{**row} for row in ITEMS]
    other[0]["truth"] = {"pii": False, "Rude?": True}
    other[1]["truth"] = [3, 2, 1]
    send_items(house.browser("ada"), other)
    house.person("lea")
    lea = house.browser("lea")
    pages = {item: lea.get(f"{TEST}/{item}") for item in range(1, 9)}
    for item in (1, 3, 4):  # but for its number a page does not depend on the truth
        same = [
            re.sub(r"screening/\d+|Item \d|item \d|token.*?>|<a href.*?</a>", "", pages[one].html)
            for one in (item, item + 4)
        ]
        assert same[0] == same[1]
    orders = set()
    for item in (2, 6):
        shown = re.findall(r'<div class="text answer">(.*?)</div>', pages[item].html)
        assert sorted(shown) == ["A bird.", "A fish.", "A heron."]
        orders.add(tuple(shown))
    assert orders != {("A heron.", "A bird.", "A fish.")}
    assert "&lt;b&gt;text" in pages[1].html and "Contains personal data" in pages[1].text


def test_an_answer_is_kept_as_it_is_written_and_can_be_changed(tested):
    house = tested
    house.person("lea")
    lea = house.browser("lea")
    page = lea.get(f"{TEST}/3")
    headers = {"Accept": "application/json", "Origin": "http://label.test"}
    fields = page.form(page.path) | {"text": "Half a sent"}
    done = lea.send("POST", page.path, data=fields, headers=headers)
    assert done.response.json() == {"saved_at": house.clock.now}
    assert lea.get(f"{TEST}/3").form(page.path)["text"] == "Half a sent"
    assert lea.submit(page, page.path, text=" ").status == 422
    page = lea.get(f"{TEST}/1")
    incomplete = lea.submit(page, page.path, flags__0="yes")
    assert incomplete.status == 422 and "yes or a no" in incomplete.text
    assert incomplete.form(page.path)["flags.0"] == "yes"
    token = {"token": page.forms[0].fields["token"]}
    assert "without an answer" in lea.post(TEST, token).text
    page = lea.get(f"{TEST}/2")
    assert lea.submit(page, page.path, ranks__0="1", ranks__1="x", ranks__2="9").status == 422
    page = lea.submit(page, page.path, ranks__0="1", ranks__1="3", ranks__2="3")
    assert page.path == f"{TEST}/4"  # the next one that is open, the third being answered
    assert lea.get(f"{TEST}/2").form(f"{TEST}/2")["ranks.1"] == "3"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("nonsense", "line 2"),
        ('{"kind": "dance", "content": {}}', "flags, ranking, demonstration or topics"),
        ('{"kind": "flags", "content": {"prompt": "x"}}', "content.questions"),
        ('{"kind": "ranking", "content": {"prompt": "x", "outputs": ["a", 1]}}', "content.outputs"),
        ('{"kind": "topics", "content": {"question": " "}}', "content.question"),
        ('{"kind": "demonstration", "content": ["x"]}', "an object"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_a_bad_file_of_items_says_which_line_and_leaves_nothing(house, row, said):
    ada = house.browser("ada")
    fields = ada.get(ADMIN).form(f"{ADMIN}/items/import")
    fields.pop("file", None)
    content = (json.dumps(ITEMS[0]) + "\n" + row).encode()
    files = {"file": ("items.jsonl", content)}
    page = ada.post(f"{ADMIN}/items/import", fields, files=files)
    assert page.status == 422 and said in page.text
    with house.database.read() as connection:
        assert screening.items(connection, 1) == []


def test_items_by_form_and_their_removal(house):
    ada = house.browser("ada")
    token = {"token": ada.get(ADMIN).forms[0].fields["token"]}

    def add(**fields):
        sent = {name.replace("__", "."): value for name, value in fields.items()}
        return ada.post(f"{ADMIN}/items", token | sent)

    assert add(kind="flags", prompt="Hm").status == 422  # which answer is right?
    assert add(kind="ranking", prompt="Hm", output__0="a", rank__0="1").status == 422  # one output
    assert add(kind="ranking", prompt="Hm", output__0="a", rank__0="").status == 422
    assert add(kind="flags", prompt=" ", truth="no").status == 422
    add(kind="flags", prompt="Hm", truth="yes")
    add(kind="ranking", prompt="B", output__1="a", rank__1="2", output__4="b", rank__4="1")
    add(kind="demonstration", prompt="Write")
    page = add(kind="topics")
    with house.database.read() as connection:
        found = screening.items(connection, 1)
    assert [item.kind for item in found] == ["flags", "ranking", "demonstration", "topics"]
    assert list(found[0].truth.values()) == [True] and found[0].content["output"] is None
    assert (found[1].content["outputs"], found[1].truth) == (["a", "b"], [2, 1])
    assert "1 questions about sensitive texts and 1 pairs" in page.text
    ada.submit(page, f"{ADMIN}/items/{found[2].id}/drop")
    with house.database.read() as connection:
        assert len(screening.items(connection, 1)) == 3
        actions = [entry.action for entry in audit.entries(connection, limit=5)]
    assert actions[0] == "drop_item"
    assert ada.post(f"{ADMIN}/items/99/drop", token).status == 404


def test_labelers_at_work_can_be_asked_for_the_test(house):
    labeler = house.person("lea")
    ada = house.browser("ada")
    send_items(ada, ITEMS)
    page = ada.get("/admin/projects/1/labelers")
    assert "Ask for the test" in page.text
    sent = {"token": page.forms[0].fields["token"], "user_id": str(labeler), "state": "screening"}
    ada.post("/admin/projects/1/labelers", sent)
    assert "there is a test" in house.browser("lea").get("/projects/1").text
