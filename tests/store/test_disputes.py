"""Ranking tasks beside each other: what is in dispute, decided, gold."""

from __future__ import annotations

import pytest

from heedful.records import METADATA_FIELDS, Rating
from heedful.store import disputes, erasure, history, pools, projects, tasks
from heedful.store.answers import PromptLabels, RankingAnswer
from heedful.store.problems import NotFound


@pytest.fixture
def ranked(house):
    """Three labelers have ranked all four tasks; they disagree about the second and the third.

    Orders are by the texts, a to d: the same but for the third labeler's.
    """
    settings = projects.Settings(overlap_fraction=1.0, overlap_n=3, gold_fraction=0.0)
    house.write(pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now)
    turned = {"Prompt 1": "dcba", "Prompt 2": "bacd"}
    flags = dict.fromkeys(METADATA_FIELDS, False)
    for number, who in enumerate(house.labelers[:3]):
        while (
            work := house.write(tasks.claim, house.project.id, who, "ranking", now=house.now)
        ) is not None:
            order = turned.get(work.prompt, "abcd") if number == 2 else "abcd"
            letters = [text.split()[1] for text in work.outputs]
            ranks = tuple(1 + order.index(letter) for letter in letters)
            ratings = tuple(Rating(5 - rank, flags) for rank in ranks)
            answer = RankingAnswer(ranks, ratings, PromptLabels(), notes=f"by {number}")
            house.write(tasks.submit, work.id, who, answer, key=work.id, now=house.now)
    return house


def lines(house, view, **more):
    return house.read(disputes.task_lines, house.project.id, view, **more)


def test_disputes_are_tasks_with_pairs_in_opposite_order(ranked):
    found = lines(ranked, "disputed")
    assert [line.prompt for line in found] == ["Prompt 1", "Prompt 2"]
    # Three pairs of labelers, six pairs of outputs: against the third all six, or one, twice.
    assert [(line.num_opposite, line.num_strict) for line in found] == [(12, 18), (2, 18)]
    assert [line.num_rankings for line in found] == [3, 3]
    assert len(lines(ranked, "all")) == 4
    first, second = (line.task_id for line in found)
    assert [line.task_id for line in lines(ranked, "disputed", after=first)] == [second]
    assert [line.task_id for line in lines(ranked, "disputed", limit=1)] == [first]
    assert [line.prompt for line in lines(ranked, "all", after=first, limit=1)] == ["Prompt 2"]


def test_a_decision_and_gold_take_a_task_out_of_dispute(ranked):
    first, second = (line.task_id for line in lines(ranked, "disputed"))
    by = {"actor": ranked.admin, "now": ranked.now}
    answer = {"ranks": [1, 1, 2, 2]}
    ranked.write(history.adjudicate, first, answer, note="as said", **by)
    ranked.write(pools.set_gold, second, {"ranks": [4, 3, 2, 1]}, **by)
    assert lines(ranked, "disputed") == []
    assert [line.task_id for line in lines(ranked, "decided")] == [first]
    assert [(line.task_id, line.pool) for line in lines(ranked, "gold")] == [(second, "gold")]
    one = ranked.read(disputes.ranking_task, ranked.project.id, first)
    assert (one.decided, one.decided_note, one.gold) == ((1, 1, 2, 2), "as said", None)
    other = ranked.read(disputes.ranking_task, ranked.project.id, second)
    assert (other.decided, other.gold) == (None, (4, 3, 2, 1))


def test_a_task_shows_every_answer_in_its_own_order(ranked):
    (task,) = [line.task_id for line in lines(ranked, "all") if line.prompt == "Prompt 1"]
    found = ranked.read(disputes.ranking_task, ranked.project.id, task)
    assert [text.split()[1] for text in found.outputs] == ["a", "b", "c", "d"]
    assert [one.ranks for one in found.answers] == [(1, 2, 3, 4), (1, 2, 3, 4), (4, 3, 2, 1)]
    assert [r.overall for r in found.answers[2].ratings] == [1, 2, 3, 4]
    assert [one.notes for one in found.answers] == ["by 0", "by 1", "by 2"]
    with pytest.raises(NotFound):
        ranked.read(disputes.ranking_task, ranked.project.id, ranked.demonstration)
    with pytest.raises(NotFound):
        ranked.read(disputes.ranking_task, ranked.project.id + 1, task)
    number = ranked.prompts["p1"]
    ranked.write(erasure.erase_prompt, number, actor=ranked.admin, now=ranked.now)
    assert len(lines(ranked, "all")) == 3
    with pytest.raises(NotFound):
        ranked.read(disputes.ranking_task, ranked.project.id, task)
