"""Figures that are brought up to date equal figures of everything, and read only what is new."""

from __future__ import annotations

import math
import random
from dataclasses import asdict

import pytest

from heedful.labeling.agreement import concordance, ranking_agreement
from heedful.labeling.figures import figures, figures_of
from heedful.labeling.quality import drift, labeler_quality
from heedful.labeling.rating_agreement import flag_agreement, rating_agreement
from heedful.labeling.tally import Tally, answers_of
from heedful.records import Rating
from heedful.store import erasure, labels, pools, projects, tasks
from heedful.store.answers import LabelSchema, RankingAnswer

FLAGS = ("hallucination", "violent")
ROW = (
    '{"prompt_id": "p%d", "prompt": "Prompt %d", "completions": [{"id": "%da", "text": "a %d"}, '
    '{"id": "%db", "text": "bb %d"}, {"id": "%dc", "text": "ccc %d"}]}\n'
)


@pytest.fixture
def crew(house):
    """Five labelers, forty tasks for three of them each, four of which are gold; one constant."""
    now = house.clock.now
    settings = projects.Settings(
        overlap_fraction=1.0, overlap_n=3, gold_fraction=0.1, drift_fraction=0.1
    )
    content = "".join(ROW % ((n,) * 8) for n in range(40))
    assert "40 tasks were made" in house.load(content.encode()).text

    def set_up(c):
        pools.change_settings(c, 1, settings, actor=1, now=now)
        projects.publish_schema(c, 1, LabelSchema(mode="fast"), actor=1, now=now)
        for task in (1, 2, 3, 4):
            pools.set_gold(c, task, {"ranks": [1, 2, 3]}, actor=1, now=now)

    house.database.write(set_up)
    house.load(content[: content.index("\n") + 1].encode(), what="constant")
    house.who = [house.person(name) for name in ("lea", "leo", "liv", "lou", "luc")]
    house.chance = random.Random(5)
    return house


def rank(house, labeler):
    """The assignment of a ranking by chance, or None without work; some outputs are not rated."""
    house.clock.now += 3600.0
    now, chance = house.clock.now, house.chance

    def do(c):
        work = tasks.claim(c, 1, labeler, "ranking", now=now)
        if work is None:
            return None
        rated = [
            Rating(chance.randint(1, 7), {flag: chance.random() < 0.4 for flag in FLAGS})
            if chance.random() < 0.8
            else None
            for _ in work.outputs
        ]
        answer = RankingAnswer(tuple(chance.choices((1, 2, 3), k=3)), tuple(rated))
        tasks.submit(c, work.id, labeler, answer, key=f"{work.id}-{now}", active_s=60.0, now=now)
        return work.id

    return house.database.write(do)


def flat(value, path=""):
    """{path: number or text} of nested figures, so that they compare up to rounding."""
    if isinstance(value, dict):
        found = {}
        for name, one in value.items():
            found |= flat(one, f"{path}/{name}")
        return found
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), path)
    return {path: value}


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        if isinstance(value, float):
            assert value == pytest.approx(other[path], rel=1e-9, abs=1e-9, nan_ok=True), path
        else:
            assert value == other[path], path


def test_figures_are_those_of_all_answers_at_once(crew):
    for _ in range(12):
        for labeler in crew.who:
            rank(crew, labeler)
    with crew.database.read() as connection:
        found = figures(connection, 1)
        rows = list(labels.ranking_rows(connection, 1))
        lengths = labels.output_lengths(connection, 1, {row.task_id for row in rows})
        pool_of = labels.special_tasks(connection, 1)
        gold = {
            str(task): {
                str(n): rank
                for n, rank in zip(labels.completions_of(connection, task), (1, 2, 3), strict=True)
            }
            for task, pool in pool_of.items()
            if pool == "gold"
        }
    answers = list(answers_of(rows, lengths))
    constant = [str(task) for task, pool in pool_of.items() if pool == "drift"]
    shared = [answer for answer in answers if int(answer.prompt) not in pool_of]
    assert found.num_rankings == len(rows) > 50 and {row.pool for row in rows} == {
        "work",
        "gold",
        "drift",
    }
    expected = labeler_quality(answers, gold=gold, constant=constant)
    assert_same(
        {str(number): asdict(one) for number, one in found.quality.items()},
        {name: asdict(one) for name, one in expected.items()},
    )
    agreement = ranking_agreement(shared)
    for name, rate in agreement.rates.items():
        mine = found.agreement.rates[name]
        assert (mine.by_labeler, mine.by_prompt) == (rate.by_labeler, rate.by_prompt)
        assert math.isnan(mine.two_way.low)
    assert found.concordance == concordance(shared)
    assert found.ratings == rating_agreement(shared).alpha
    assert found.flags == flag_agreement(shared) and len(found.flags) == 2
    assert_same(asdict(found.drift), asdict(drift(answers, constant)))
    for labeler in crew.who:
        mine = drift(answers, constant, labeler=str(labeler))
        assert (mine is None) == (labeler not in found.drifts)
        if mine is not None:
            assert_same(asdict(found.drifts[labeler]), asdict(mine))


def test_whatever_happens_up_to_date_is_as_begun_anew(crew):
    tally, chance = Tally(), crew.chance
    done = []

    def write(function, *given, **named):
        crew.database.write(lambda c: function(c, *given, **named))

    for step in range(60):
        kind = chance.choice(["rank"] * 8 + ["undo", "gold", "work"])
        labeler, by = chance.choice(crew.who), {"actor": 1, "now": crew.clock.now}
        if step == 55:
            write(erasure.erase_labeler, crew.who.pop(0), **by)
        elif kind == "rank" and (work := rank(crew, labeler)):
            done = [(work, labeler)]
        elif kind == "undo" and done:
            write(tasks.undo, *done.pop(), now=crew.clock.now)
        elif kind == "gold":
            write(pools.set_gold, 7, {"ranks": [2, 1, 1]}, **by)
        elif kind == "work" and 7 in tally.special:
            write(pools.clear_gold, 7, **by)
        with crew.database.read() as connection:
            tally.update(connection, 1)
            if step % 6 == 5 or step > 54:
                found = figures_of(tally, connection, 1)
                assert_same(asdict(found), asdict(figures(connection, 1)))


def test_only_what_is_new_is_read(crew):
    tally = Tally()

    def update():
        with crew.database.read() as connection:
            return tally.update(connection, 1)

    assert update() == 5  # gold and constant tasks, which nobody has answered
    for labeler in crew.who:
        rank(crew, labeler)
    assert 1 <= update() <= 5
    assert update() == 0
    rank(crew, crew.who[0])
    assert update() == 1 and update() == 0
    # A submission whose number is older than what was read, as a slow transaction leaves it.
    missing = tally.rows.answers["task"][0]
    kept = tally.rows.answers["task"] != missing
    tally.rows = tally.rows._replace(answers=tally.rows.answers[kept])
    assert update() == 1 and missing in tally.rows.answers["task"]


def test_it_rests_after_each_piece(crew, monkeypatch):
    monkeypatch.setattr("heedful.labeling.tally.TASKS_AT_ONCE", 2)
    for labeler in crew.who:
        rank(crew, labeler)
    rests = []
    with crew.database.read() as connection:
        number = Tally().update(connection, 1, rests.append)
    assert len(rests) == math.ceil(number / 2) > 3 and min(rests) > 0
