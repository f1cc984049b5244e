"""Threads: who may ask and answer where, what counts as new, and what an erasure takes with it."""

from __future__ import annotations

import pytest

from heedful.store import erasure, tasks, threads
from heedful.store.problems import AnswerProblem, NotFound

NOW = 1_000_000.0


@pytest.fixture
def begun(house):
    """The house with the first labeler's ranking task begun, as ``work``."""
    labeler = house.labelers[0]
    project = house.project.id
    house.work = house.write(tasks.claim, project, labeler, "ranking", now=NOW)
    return house


def test_a_question_waits_until_it_is_answered_and_its_answer_until_it_is_seen(begun):
    lea, leo = begun.labelers[:2]
    project, work = begun.project.id, begun.work.id
    begun.write(threads.ask, work, lea, "May I look it up?", now=NOW + 1)
    (waiting,) = begun.read(threads.all_threads, project)
    assert (waiting.num_new, waiting.num_messages, waiting.prompt) == (1, 1, begun.work.prompt)
    assert begun.read(threads.own_threads, project, leo) == []
    (own,) = begun.read(threads.own_threads, project, lea)
    assert own.num_new == 0
    begun.write(threads.answer, project, work, "Yes, two minutes.", actor=begun.admin, now=NOW + 2)
    (waiting,) = begun.read(threads.all_threads, project)
    (own,) = begun.read(threads.own_threads, project, lea)
    assert (waiting.num_new, own.num_new, own.last_at) == (0, 1, NOW + 2)
    said = begun.read(threads.own_thread, work, lea)
    assert [(m.is_answer, m.text) for m in said] == [
        (False, "May I look it up?"),
        (True, "Yes, two minutes."),
    ]
    assert said == begun.read(threads.thread, project, work)
    begun.write(threads.see_own, work, lea, now=NOW + 3)
    (own,) = begun.read(threads.own_threads, project, lea)
    assert own.num_new == 0


def test_nobody_asks_or_reads_in_the_thread_of_another(begun):
    leo = begun.labelers[1]
    project, work = begun.project.id, begun.work.id
    for call in (
        lambda: begun.write(threads.ask, work, leo, "?", now=NOW),
        lambda: begun.read(threads.own_thread, work, leo),
        lambda: begun.write(threads.see_own, work, leo, now=NOW),
        lambda: begun.read(threads.thread, project + 1, work),
        lambda: begun.write(threads.answer, project + 1, work, "!", actor=begun.admin, now=NOW),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(AnswerProblem, match="message: is empty"):
        begun.write(threads.ask, work, begun.labelers[0], " ", now=NOW)


def test_an_erasure_takes_the_threads_along(begun):
    lea = begun.labelers[0]
    begun.write(threads.ask, begun.work.id, lea, "My name is Lea.", now=NOW)
    begun.write(erasure.erase_labeler, lea, actor=begun.admin, now=NOW)
    assert begun.read(threads.all_threads, begun.project.id) == []
