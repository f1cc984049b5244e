"""Screening: answers, grades and decisions."""

from __future__ import annotations

import pytest

from heedful.store import people, screening, tasks
from heedful.store.problems import AnswerProblem, Conflict, NotFound

ITEMS = {
    "flags": (
        {"prompt": "p", "output": None, "questions": ["hate", "sexual"]},
        {"hate": True, "sexual": False},
    ),
    "ranking": ({"prompt": "p", "outputs": ["a", "b", "c"]}, [1, 2, 2]),
    "demonstration": ({"prompt": "p"}, None),
    "topics": ({"question": "Which groups?"}, None),
}


@pytest.fixture
def candidate(house):
    """A labeler who is to be screened, with an item of each kind."""
    house.items = {
        kind: house.write(
            screening.add_item,
            house.project.id,
            kind,
            content,
            truth,
            actor=house.admin,
            now=house.now,
        )
        for kind, (content, truth) in ITEMS.items()
    }
    house.who = house.write(
        people.add_user, "c@example.org", "C", "labeler", None, actor=None, now=house.now
    ).id
    house.write(people.join, house.project.id, house.who, actor=None, now=house.now)
    return house


def answer(house, kind, given):
    house.write(screening.answer, house.items[kind], house.who, given, now=house.now)


def test_a_candidate_sees_no_truth_and_can_change_an_answer(candidate):
    answer(candidate, "ranking", [3, 2, 1])
    answer(candidate, "ranking", [2, 1, 1])
    seen = candidate.read(screening.questions, candidate.project.id, candidate.who)
    assert [(q.kind, q.answer) for q in seen] == [
        ("flags", None),
        ("ranking", [2, 1, 1]),
        ("demonstration", None),
        ("topics", None),
    ]
    assert not any(hasattr(question, "truth") for question in seen)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("flags", {"hate": True}),
        ("flags", {"hate": True, "sexual": None}),
        ("ranking", [1, 2]),
        ("ranking", [1, 2, 4]),
        ("ranking", [True, 2, 3]),
        ("demonstration", " "),
        ("topics", ["a"]),
    ],
)
def test_answers_that_do_not_fit_are_refused(candidate, kind, given):
    with pytest.raises(AnswerProblem, match="answer"):
        answer(candidate, kind, given)


def test_from_the_last_answer_to_the_decision(candidate):
    house, who, project = candidate, candidate.who, candidate.project.id
    answer(house, "flags", {"hate": True, "sexual": True})
    answer(house, "ranking", [1, 2, 3])
    answer(house, "demonstration", "A response")
    with pytest.raises(AnswerProblem, match="item 4 has no answer"):
        house.write(screening.finish, project, who, now=house.now)
    answer(house, "topics", "Frogs")
    house.write(screening.finish, project, who, now=house.now)
    with pytest.raises(Conflict, match="handed in"):
        answer(house, "topics", "Toads")
    with pytest.raises(NotFound):
        house.write(tasks.claim, project, who, "ranking", now=house.now)

    found = {a.kind: a for a in house.read(screening.answers, project)}
    assert found["flags"].truth == {"hate": True, "sexual": False}
    assert found["flags"].answer == {"hate": True, "sexual": True}
    assert (found["ranking"].truth, found["ranking"].answer) == ([1, 2, 2], [1, 2, 3])
    for reviewer, score in ((house.admin, 3), (house.admin, 6), (house.labelers[0], 7)):
        house.write(screening.grade, found["demonstration"].id, reviewer, score, now=house.now)
    with pytest.raises(NotFound, match="no demonstration"):
        house.write(screening.grade, found["topics"].id, house.admin, 5, now=house.now)
    with pytest.raises(AnswerProblem, match="from 1 to 7"):
        house.write(screening.grade, found["demonstration"].id, house.admin, 8, now=house.now)
    graded = house.read(screening.answers, project, user_id=who)
    assert {a.kind: a.scores for a in graded}["demonstration"] == (6, 7)

    house.write(screening.decide, project, who, accept=True, actor=house.admin, now=house.now)
    assert house.write(tasks.claim, project, who, "ranking", now=house.now) is not None


def test_an_item_with_answers_stays(candidate):
    answer(candidate, "topics", "Frogs")
    for kind in ("flags", "topics"):
        number = candidate.items[kind]
        if kind == "topics":
            with pytest.raises(Conflict, match="measured by the same"):
                candidate.write(screening.drop_item, number, actor=1, now=candidate.now)
        else:
            candidate.write(screening.drop_item, number, actor=1, now=candidate.now)
    kinds = [item.kind for item in candidate.read(screening.items, candidate.project.id)]
    assert kinds == ["ranking", "demonstration", "topics"]


def test_an_item_without_its_truth_is_refused(house):
    with pytest.raises(AnswerProblem, match="truth"):
        house.write(
            screening.add_item,
            house.project.id,
            "ranking",
            {"prompt": "p", "outputs": ["a", "b"]},
            [1],
            actor=house.admin,
            now=house.now,
        )
