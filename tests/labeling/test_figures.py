"""Figures for pages: computed when rankings have changed, beside the page where that is long."""

from __future__ import annotations

import threading
import time

import pytest

from heedful.labeling.figures import REST, FigureCache, Shown
from heedful.records import METADATA_FIELDS, Rating
from heedful.store import erasure, labels, pools, projects, tasks
from heedful.store.answers import PromptLabels, RankingAnswer

NO = dict.fromkeys(METADATA_FIELDS, False)


@pytest.fixture
def crew(house, completions_file):
    """Two labelers and two tasks that both may do."""
    house.load(completions_file)
    settings = projects.Settings(overlap_fraction=1.0, overlap_n=2, gold_fraction=0.0)
    house.database.write(
        lambda c: pools.change_settings(c, 1, settings, actor=1, now=house.clock.now)
    )
    house.who = [house.person(name) for name in ("lea", "leo")]
    return house


def rank(house, labeler, ranks=(1, 2, 3)):
    """The assignment of a ranking that was submitted just now."""
    house.clock.now += 1.0
    now = house.clock.now

    def do(c):
        work = tasks.claim(c, 1, labeler, "ranking", now=now)
        answer = RankingAnswer(ranks, (Rating(4, NO),) * 3, PromptLabels())
        tasks.submit(c, work.id, labeler, answer, key=f"{labeler}-{now}", now=now)
        return work.id

    return house.database.write(do)


def version(house):
    with house.database.read() as connection:
        return labels.version(connection, 1)


def test_the_version_changes_with_all_that_figures_rest_on(crew):
    house = crew
    seen = [version(house)]

    def changed():
        seen.append(version(house))
        assert seen[-1] != seen[-2]

    first = rank(house, house.who[0])
    changed()
    rank(house, house.who[1])
    changed()
    house.clock.now += 1.0
    now = house.clock.now
    house.database.write(lambda c: tasks.undo(c, first, house.who[0], now=now))
    changed()
    rank(house, house.who[0], (3, 2, 1))
    changed()
    for ranks in ([1, 2, 3], [3, 2, 1]):
        house.clock.now += 1.0
        now, answer = house.clock.now, {"ranks": ranks}
        house.database.write(lambda c, a=answer, t=now: pools.set_gold(c, 1, a, actor=1, now=t))
        changed()
    house.database.write(lambda c: pools.clear_gold(c, 1, actor=1, now=now))
    changed()
    house.database.write(lambda c: erasure.erase_labeler(c, house.who[1], actor=1, now=now))
    changed()
    unchanged = version(house)
    house.database.write(lambda c: tasks.claim(c, 1, house.who[0], "ranking", now=now))
    assert version(house) == unchanged


def test_figures_are_computed_once_for_each_change(crew):
    calls = []
    cache = FigureCache(
        crew.database, lambda: crew.clock.now, compute=lambda c, p: calls.append(p) or len(calls)
    )
    assert cache.get(1) == cache.get(1) == Shown(1, None)
    rank(crew, crew.who[0])
    assert cache.get(1) == cache.get(1) == Shown(2, None)
    assert cache.get(2) == Shown(3, None) and cache.get(1) == Shown(2, None)
    assert calls == [1, 1, 2]


def test_long_computations_run_beside_the_pages_and_rest(crew):
    go, done, calls = threading.Event(), threading.Event(), []

    def compute(connection, project_id):
        calls.append(project_id)
        assert go.wait(60)
        begun = time.thread_time()
        while time.thread_time() < begun + 0.02:
            pass
        done.set()
        return len(calls)

    def wait_for_end():
        assert done.wait(60)
        done.clear()
        while cache._under_way:
            time.sleep(0.001)

    cache = FigureCache(crew.database, lambda: crew.clock.now, compute=compute, at_once=-1)
    assert cache.get(1) == Shown(None, None) == cache.get(1)  # nobody waits; it is begun once
    begun = crew.clock.now
    go.set()
    wait_for_end()
    assert cache.get(1) == Shown(1, None)
    rank(crew, crew.who[0])
    crew.clock.now = begun + 0.01  # too early: it has not rested twenty times as long
    assert cache.get(1) == Shown(1, begun) and calls == [1]
    crew.clock.now = begun + REST * 5.0
    assert cache.get(1) == Shown(1, begun)
    wait_for_end()
    assert calls == [1, 1] and cache.get(1) == Shown(2, None)


def test_a_small_project_does_not_wait_for_a_large_one(crew):
    go, calls = threading.Event(), []

    def compute(connection, project_id):
        calls.append(project_id)
        if project_id == 1:
            assert go.wait(30)
        return project_id

    cache = FigureCache(
        crew.database,
        lambda: crew.clock.now,
        compute=compute,
        version_of=lambda connection, project_id: (5_000 if project_id == 1 else 3,),
    )
    assert cache.get(1) == Shown(None, None)
    while not calls:  # until the large one is at it
        time.sleep(0.001)
    small = threading.Thread(target=lambda: calls.append(cache.get(2)), daemon=True)
    small.start()
    small.join(60)
    assert not small.is_alive() and calls == [1, 2, Shown(2, None)]
    go.set()
    while cache._under_way:
        time.sleep(0.001)
    assert cache.get(1) == Shown(1, None)


def test_pages_of_one_small_project_are_computed_one_after_another(crew):
    busy, changes, found = threading.Lock(), iter(range(1_000)), []

    def compute(connection, project_id):
        assert busy.acquire(blocking=False)  # a tally is changed on the way
        time.sleep(0.02)
        busy.release()
        return project_id

    cache = FigureCache(
        crew.database,
        lambda: crew.clock.now,
        compute=compute,
        version_of=lambda connection, project_id: (3, next(changes)),
    )
    threads = [threading.Thread(target=lambda: found.append(cache.get(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Shown(1, None)] * 4


def test_a_computation_that_fails_leaves_the_last_figures(crew, caplog):
    calls = []

    def compute(connection, project_id):
        calls.append(project_id)
        raise RuntimeError("no figures")

    cache = FigureCache(crew.database, lambda: crew.clock.now, compute=compute, at_once=-1)
    for _ in range(2):  # the next page tries again
        assert cache.get(1) == Shown(None, None)
        while cache._under_way:
            time.sleep(0.001)
    assert calls == [1, 1] and "no figures" in caplog.text


def test_the_page_shows_every_kind_of_agreement_with_its_name(crew):
    for labeler in crew.who:
        for _ in range(2):
            rank(crew, labeler)
    page = crew.browser("ada").get("/admin/projects/1/labelers")
    text = " ".join(page.text.split())
    assert "2 tasks shared by 2 labelers" in text
    assert "Krippendorff's alpha (ordinal) of the ratings from 1 to 7, over 6 outputs" in text
    assert "undefined: all answers equal" in text
    assert "Hallucination100.0%" in text.replace(" ", "")


def test_the_page_says_how_old_its_figures_are(crew):
    for labeler in crew.who:
        rank(crew, labeler)
    cache = FigureCache(crew.database, lambda: crew.clock.now, at_once=-1)
    crew.app.state.figures = cache
    ada, path = crew.browser("ada"), "/admin/projects/1/labelers"

    def wait_for_end():
        while cache._under_way:
            time.sleep(0.001)

    page = ada.get(path)
    assert "The figures are being computed" in page.text and "not computed yet" in page.text
    wait_for_end()
    assert "1 tasks shared by 2 labelers" in ada.get(path).text
    rank(crew, crew.who[0])
    crew.clock.now += 600.0
    said = "As of 2023-11-14 22:13 UTC, over the 2 rankings of then; newer figures will follow."
    assert said in ada.get(path).text
    wait_for_end()
    assert "As of" not in ada.get(path).text
