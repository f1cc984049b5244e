"""Rating in strict and in fast mode: what is asked, what may be left open, what is kept."""

from __future__ import annotations

import pytest

from heedful.records import METADATA_FIELDS
from heedful.store import labels, projects
from heedful.store.answers import LabelSchema

PROJECT = 1


def kept(house):
    with house.database.read() as connection:
        return list(labels.ranking_rows(connection, PROJECT))


@pytest.fixture
def lea(house, completions_file):
    """A labeler's browser, in a project with two ranking tasks."""
    house.load(completions_file)
    house.person("lea")
    return house.browser("lea")


def test_strict_mode_preselects_nothing_and_needs_every_question(house, lea):
    page = house.begin(lea, "ranking")
    inputs = [given for tag, given in page.tags if tag == "input"]
    radios = [i for i in inputs if i.get("type") == "radio" and "form" not in i]
    assert len(radios) == 3 * (3 + 7 + 2 * len(METADATA_FIELDS))
    assert not [given for given in inputs if "checked" in given and "form" not in given]
    assert all("required" in given for given in radios)
    action, sent = f"{page.path}/submit", house.ranked((1, 2, 3), (7, 5, 3))
    for name in sent:
        answer = {key: value for key, value in sent.items() if key != name}
        assert lea.post(action, page.form(action) | answer).status == 422, name
    assert kept(house) == []


def test_fast_mode_takes_ranks_alone_and_keeps_what_was_answered(house, lea):
    with house.database.read() as connection:
        schema = projects.schema(connection, PROJECT)
    assert schema.mode == "strict"
    fast = LabelSchema(mode="fast")
    house.database.write(
        lambda c: projects.publish_schema(c, PROJECT, fast, actor=1, now=house.clock.now)
    )
    page = house.begin(lea, "ranking")
    action = f"{page.path}/submit"
    answer = {"ranks.0": "2", "ranks.1": "1", "ranks.2": "2"}
    flag_alone = {"ratings.0.violent": "no"}
    page = lea.post(action, page.form(action) | answer | flag_alone)
    assert page.status == 422 and "#ratings.0" in page.links  # a rating goes with its questions
    rated = flag_alone | {"ratings.0": "4", "ratings.0.hallucination": "yes"}
    page = lea.post(action, page.form(action) | answer | rated)
    assert "Submitted." in page.text
    (row,) = kept(house)
    shown = [row.ratings[place] for place in row.display_order]
    assert shown[0] is not None and shown[0].overall == 4
    assert shown[0].flags == {"violent": False, "hallucination": True}  # no word is no "no"
    assert shown[1:] == [None, None] and row.schema == 2
    assert [row.ranks[place] for place in row.display_order] == [2, 1, 2]
    answer = {"ranks.0": "1", "ranks.1": "2", "ranks.2": "3"}
    action = f"{page.path}/submit"
    assert lea.post(action, page.form(action) | answer).status == 200
    assert kept(house)[1].ratings == (None, None, None)


def test_an_order_that_began_with_the_ratings_is_kept_as_such(house, lea):
    for began, checks in (("on", ("prefilled",)), ("", ())):
        page = house.begin(lea, "ranking")
        action = f"{page.path}/submit"
        sent = page.form(action) | house.ranked((1, 2, 3), (7, 5, 3)) | {"prefilled": began}
        assert "Submitted." in lea.post(action, sent).text
        assert kept(house)[-1].checks == checks
