"""How many labelers a task is for: overlap, gold and drift, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heedful.records import Completion, Rating
from heedful.store import history, pools, projects, tasks
from heedful.store.answers import LabelSchema, RankingAnswer
from heedful.store.problems import Conflict, NotFound, StoreError


def change(house, **settings):
    changed = replace(house.project.settings, **settings)
    house.write(pools.change_settings, house.project.id, changed, actor=house.admin, now=house.now)


def row(house, task):
    with house.database.read() as connection:
        return connection.execute(pools.tasks.select().where(pools.tasks.c.id == task)).one()


def claim(house, labeler, after=0.0):
    who = house.labelers[labeler]
    return house.write(tasks.claim, house.project.id, who, "ranking", now=house.now + after)


def rank(house, labeler, work, key):
    answer = RankingAnswer((1, 2, 3, 4), (Rating(4),) * 4)
    who = house.labelers[labeler]
    return house.write(tasks.submit, work.id, who, answer, key=key, active_s=30.0, now=house.now)


@pytest.fixture
def fast(house):
    """The house with questions that need no answers."""
    house.write(
        projects.publish_schema,
        house.project.id,
        LabelSchema(mode="fast"),
        actor=house.admin,
        now=house.now,
    )
    return house


def test_overlap_is_a_share_of_the_tasks_chosen_by_lot(house):
    lots = {task: row(house, task).lot for task in house.tasks.values()}
    middle = sorted(lots.values())[2]
    change(house, overlap_fraction=middle, overlap_n=3, heldout_n=2)
    for task, lot in lots.items():
        found = row(house, task)
        targets = (found.target_n, found.open_slots, found.heldout_n, found.heldout_open)
        assert targets == ((3, 3, 2, 2) if lot < middle else (1, 1, 0, 0))
    # A task that comes later is drawn in the same way.
    project = house.read(projects.get, house.project.id)
    new = house.write(pools.add_demonstration_task, project, house.prompts["p1"])
    assert row(house, new).target_n == (3 if row(house, new).lot < middle else 1)


def test_tasks_that_cannot_be_ranked_are_refused(house):
    p0, p1 = house.prompts["p0"], house.prompts["p1"]
    made = house.write(
        projects.add_completions, p0, [Completion(f"c{n}", f"text {n}") for n in range(10)]
    )
    for numbers, message in ((made[:1], "has 1 comp"), (made, "has 10"), ([made[0]] * 2, "diff")):
        with pytest.raises(StoreError, match=message):
            house.write(pools.add_ranking_task, house.project, p0, numbers)
    with pytest.raises(StoreError, match="belong"):
        house.write(pools.add_ranking_task, house.project, p1, made[:2])
    with pytest.raises(NotFound, match="no prompt 999"):
        house.write(pools.add_demonstration_task, house.project, 999)


def test_gold_is_for_everyone_and_can_be_set_and_cleared_at_any_time(fast):
    house = fast
    change(house, gold_fraction=1.0)
    task = house.tasks["p2"]
    rank(house, 0, claim(house, 0), "a")  # no gold yet: ordinary work
    house.write(pools.set_gold, task, {"ranks": [1, 2, 3, 4]}, actor=house.admin, now=house.now)
    before = row(house, task)
    assert before.target_n == pools.EVERYONE
    for labeler in (1, 2):
        assert claim(house, labeler).prompt == "Prompt 2"
    assert claim(house, 3).prompt == "Prompt 2"  # the held-out cohort too
    assert row(house, task).open_slots == before.open_slots - 2
    found = house.read(history.reference_answers, house.project.id)
    assert found == {task: {"ranks": [1, 2, 3, 4]}}
    house.write(pools.clear_gold, task, actor=house.admin, now=house.now)
    after = row(house, task)
    assert (after.pool, after.target_n, after.open_slots) == ("work", 1, 0)
    with pytest.raises(Conflict, match="not gold"):
        house.write(pools.clear_gold, task, actor=house.admin, now=house.now)


def test_gold_and_drift_come_in_their_shares_whoever_asks(fast):
    house = fast
    change(house, gold_fraction=0.3, drift_fraction=0.3)

    def fill(connection):
        for number in range(20):
            for pool in ("work", "gold", "drift"):
                made = projects.add_completions(
                    connection,
                    house.prompts["p0"],
                    [Completion(f"{pool}{number}{x}", x) for x in "abcd"],
                )
                pools.add_ranking_task(
                    connection, house.project, house.prompts["p0"], made, pool=pool
                )

    house.write(fill)
    pools_seen = []
    for number in range(20):
        work = claim(house, 0)
        rank(house, 0, work, f"k{number}")
        with house.database.read() as connection:
            query = pools.tasks.select().join(
                pools.assignments, pools.assignments.c.task_id == pools.tasks.c.id
            )
            pools_seen.append(
                connection.execute(query.where(pools.assignments.c.id == work.id)).one().pool
            )
    shares = {pool: pools_seen.count(pool) / 20 for pool in ("work", "gold", "drift")}
    assert 0.1 < shares["gold"] < 0.5 and 0.1 < shares["drift"] < 0.5
    assert 0.2 < shares["work"] < 0.6


def test_progress_counts_tasks_slots_and_answers(fast):
    house = fast
    rank(house, 0, claim(house, 0), "a")
    house.write(tasks.skip, claim(house, 1).id, house.labelers[1], now=house.now)
    claim(house, 2)
    found = {p.kind: p for p in house.read(pools.progress, house.project.id)}
    assert found["ranking"] == pools.Progress("ranking", 4, 2, 1, 1, 1)
    assert found["demonstration"] == pools.Progress("demonstration", 1, 1, 0, 0, 0)


def test_a_lease_follows_the_usual_working_time(fast):
    house = fast
    change(house, lease_s=None)
    work = claim(house, 0)
    assert work.lease_until == house.now + 1800
    rank(house, 0, work, "a")  # 30 s of work: three times that is under the least
    assert claim(house, 0).lease_until == house.now + 300
