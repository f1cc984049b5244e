"""Taking people's data out, and naming what was made with it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import String, cast, func, select

from heedful.records import METADATA_FIELDS, Rating
from heedful.store import audit, erasure, labels, people, pools, sessions, snapshot, tasks
from heedful.store.answers import PromptAnswer, PromptLabels, RankingAnswer
from heedful.store.problems import Conflict, NotFound
from heedful.store.tables import metadata

SECRET = "canary"


def rank(house, labeler, key):
    who = house.labelers[labeler]
    work = house.write(tasks.claim, house.project.id, who, "ranking", now=house.now)
    flags = dict.fromkeys(METADATA_FIELDS, False)
    answer = RankingAnswer((1, 2, 3, 4), (Rating(4, flags),) * 4, PromptLabels(), notes=SECRET)
    house.write(tasks.save_draft, work.id, who, {"notes": SECRET}, revision=0, now=house.now)
    house.write(tasks.submit, work.id, who, answer, key=key, now=house.now)
    return work


def places_of(house, text):
    """Every table and column in which a text stands."""
    found = set()
    with house.database.read() as connection:
        for table in metadata.sorted_tables:
            for column in table.columns:
                holds = func.lower(cast(column, String)).like(f"%{text}%")
                if connection.execute(select(column).where(holds).limit(1)).first():
                    found.add(f"{table.name}.{column.name}")
    return found


def test_nothing_of_an_erased_labeler_is_left_and_the_work_is_open_again(house, tmp_path):
    who = house.labelers[0]
    house.write(people.change_user, who, name=SECRET, actor=house.admin, now=house.now)
    house.write(
        sessions.start,
        who,
        token_sha256="t",
        csrf_token="c",
        expires_at=house.now + 9,
        agent=SECRET,
        now=house.now,
    )
    house.write(people.save_survey, house.project.id, who, {"said": SECRET}, now=house.now)
    house.write(pools.add_prompt_task, house.project, "plain")
    own = house.write(tasks.claim, house.project.id, who, "prompt", now=house.now)
    written = PromptAnswer(f"A {SECRET} prompt", response=SECRET)
    house.write(tasks.submit, own.id, who, written, key="own", now=house.now)
    work = rank(house, 0, "k")
    rank(house, 1, "other")
    made = house.read(snapshot.write, house.project.id, tmp_path / "s")
    house.write(snapshot.note, made, actor=house.admin, now=house.now)
    assert len(places_of(house, SECRET)) >= 7

    erased = house.write(erasure.erase_labeler, who, actor=house.admin, now=house.now)
    assert (erased.num_answers, erased.num_prompts) == (2, 1)
    assert [s.manifest_sha256 for s in erased.snapshots] == [made.manifest_sha256]
    # The other labeler's notes are all that is left of the word.
    house.write(erasure.erase_labeler, house.labelers[1], actor=house.admin, now=house.now)
    assert places_of(house, SECRET) == places_of(house, "labeler0@") == set()
    assert list(house.read(lambda c: list(labels.ranking_rows(c, house.project.id)))) == []
    assert house.read(audit.verify) is None
    with house.database.read() as connection:
        query = pools.tasks.select().where(pools.tasks.c.kind == "ranking")
        assert {row.open_slots for row in connection.execute(query)} == {1}
    later = house.read(snapshot.write, house.project.id, tmp_path / "t")
    assert later.files["comparisons.jsonl"]["rows"] == 0
    with pytest.raises(Conflict, match="erased already"):
        house.write(erasure.erase_labeler, who, actor=house.admin, now=house.now)
    with pytest.raises(NotFound):
        house.read(tasks.view, work.id, who)


def test_a_customers_prompts_go_with_every_answer_to_them(house, tmp_path):
    for labeler, key in ((0, "a"), (1, "b"), (2, "c")):
        rank(house, labeler, key)
    made = house.read(snapshot.write, house.project.id, tmp_path / "s")
    house.write(snapshot.note, made, actor=house.admin, now=house.now)
    erased = house.write(
        erasure.erase_source_user,
        house.project.id,
        "customer0",
        actor=house.admin,
        now=house.now,
    )
    assert erased.num_prompts == 2 and len(erased.snapshots) == 1
    assert places_of(house, "customer0") == set()
    assert places_of(house, "output a of p0") == places_of(house, "prompt 2") == set()
    rows = house.read(lambda c: list(labels.ranking_rows(c, house.project.id)))
    assert len(rows) == 3 - erased.num_answers
    later = house.read(snapshot.write, house.project.id, tmp_path / "t")
    assert later.files["prompts.jsonl"]["rows"] == 2
    with pytest.raises(NotFound, match="no prompts of 'customer0'"):
        house.write(
            erasure.erase_source_user,
            house.project.id,
            "customer0",
            actor=house.admin,
            now=house.now,
        )
    seen = set()
    while (
        work := house.write(
            tasks.claim, house.project.id, house.labelers[0], "ranking", now=house.now
        )
    ) is not None:
        seen.add(work.prompt)
        house.write(tasks.skip, work.id, house.labelers[0], now=house.now)
    assert seen <= {"Prompt 1", "Prompt 3"}


def test_one_prompt_can_be_taken_out_of_quarantine_for_good(house):
    work = rank(house, 0, "k")
    number = house.prompts[f"p{work.prompt[-1]}"]
    erased = house.write(erasure.erase_prompt, number, actor=house.admin, now=house.now)
    assert (erased.num_answers, erased.num_prompts) == (1, 1)
    assert places_of(house, work.prompt.lower()) == set()
    with pytest.raises(NotFound):
        house.write(erasure.erase_prompt, number, actor=house.admin, now=house.now)


def test_models_made_with_a_snapshot_are_found_and_those_made_from_them(tmp_path):
    files = {"comparisons.jsonl": {"sha256": "aa"}}
    made = snapshot.Snapshot(1, 1, "m", files, snapshot.Query(), None, 0.0, {"cc": "pairs.jsonl"})
    lineages = {
        "reward": {"sha256": "w1", "data": {"x/comparisons.jsonl": "aa"}, "parents": {}},
        "ppo": {"sha256": "w2", "data": {}, "parents": {"reward_model": {"sha256": "w1"}}},
        "on pairs": {"sha256": "w4", "data": {"x/pairs.jsonl": "cc"}, "parents": {}},
        "other": {"sha256": "w3", "data": {"y": "bb"}, "parents": {"base": {"sha256": None}}},
    }
    for name, lineage in lineages.items():
        (tmp_path / name / "model").mkdir(parents=True)
        path = tmp_path / name / "model" / "heedful.json"
        path.write_text(json.dumps(lineage), encoding="utf-8")
    found = erasure.checkpoints_with([made], [tmp_path])
    names = ("on pairs", "ppo", "reward")
    assert found == [tmp_path / name / "model" for name in names]
