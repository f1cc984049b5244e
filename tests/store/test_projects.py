"""Projects, their versions of guidelines and questions, prompts and quarantine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heedful.records import Completion, Prompt
from heedful.store import pools, projects
from heedful.store.answers import LabelSchema
from heedful.store.problems import AnswerProblem, Conflict, NotFound, StoreError
from heedful.store.projects import Settings, share_of


def add(house, *prompts):
    return house.write(
        projects.add_prompts, house.project.id, prompts, actor=house.admin, now=house.now
    )


def test_a_project_is_found_by_name_and_closed(house):
    found = house.read(projects.by_name, "first")
    assert (found.id, found.settings.lease_s) == (house.project.id, 100.0)
    with pytest.raises(NotFound, match=r"no project 'other'; there are first"):
        house.read(projects.by_name, "other")
    with pytest.raises(Conflict, match="another name"):
        house.write(projects.create, "first", seed="x", actor=house.admin, now=house.now)
    house.write(projects.set_closed, found.id, True, actor=house.admin, now=house.now)
    assert house.read(projects.get, found.id).closed_at == house.now
    house.write(projects.set_closed, found.id, False, actor=house.admin, now=house.now)
    assert house.read(projects.get, found.id).closed_at is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap_fraction": 1.5},
        {"gold_fraction": 0.6, "drift_fraction": 0.6},
        {"overlap_n": 0},
        {"lease_s": 0.0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(StoreError, match=next(iter(wrong))):
        Settings(**wrong)


def test_questions_come_in_versions(house):
    project = house.project.id
    assert house.read(projects.schema, project).number == 1
    fast = LabelSchema(mode="fast", rating_flags=("fails_task",), prompt_flags=("pii",))
    made = house.write(projects.publish_schema, project, fast, actor=house.admin, now=house.now)
    assert made == replace(fast, number=2) == house.read(projects.schema, project)


def test_prompts_that_are_there_stay_as_they_are(house):
    numbers = add(house, Prompt(id="p1", text="changed"), Prompt(id="new", text="New"))
    assert numbers["p1"] == house.prompts["p1"]
    assert house.read(projects.prompt, numbers["p1"]).prompt.text == "Prompt 1"
    assert house.read(projects.prompt, numbers["new"]).prompt == Prompt(id="new", text="New")
    again = house.write(
        projects.add_completions, numbers["p1"], [Completion("p1b", "other"), Completion("e", "E")]
    )
    assert len(set(again)) == 2
    assert again == house.write(
        projects.add_completions, numbers["p1"], [Completion("p1b", ""), Completion("e", "")]
    )


@pytest.mark.parametrize("text", ["", "  ", "a\x00b", "\ud83d", "x" * 100_001])
def test_texts_that_cannot_be_kept_are_refused_on_both_databases(house, text):
    with pytest.raises(AnswerProblem, match="prompt bad"):
        add(house, Prompt(id="bad", text=text))
    add(house, Prompt(id="good", text="naïve \U0001f438 \u202e"))


def test_quarantine_holds_the_tasks_of_a_prompt_the_new_ones_too(house):
    number = house.prompts["p0"]
    house.write(projects.quarantine, number, "pii", actor=house.labelers[0], now=house.now)
    new = house.write(pools.add_demonstration_task, house.project, number)

    def states():
        query = pools.tasks.select().where(pools.tasks.c.prompt_id == number)
        with house.database.read() as connection:
            return {row.id: row.state for row in connection.execute(query)}

    assert states() == dict.fromkeys([house.tasks["p0"], house.demonstration, new], "held")
    held = house.read(projects.list_prompts, house.project.id, state="quarantined")
    assert [(p.id, p.reason) for p in held] == [(number, "pii")]
    house.write(projects.release, number, actor=house.admin, now=house.now)
    assert set(states().values()) == {"open"}
    with pytest.raises(Conflict, match="not in quarantine"):
        house.write(projects.release, number, actor=house.admin, now=house.now)


def test_prompts_are_listed_in_pages(house):
    first = house.read(projects.list_prompts, house.project.id, limit=3)
    rest = house.read(projects.list_prompts, house.project.id, after=first[-1].id)
    assert [p.prompt.id for p in first + rest] == ["p0", "p1", "p2", "p3"]


def test_shares_are_even_and_for_good():
    # printf s/a/1 | b2sum -l 48
    assert share_of("s", "a", 1) == 0x37DF32D630ED / 2**48
    numbers = [share_of("s", "a", n) for n in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 2000 - 0.5) < 0.03
    assert share_of("s", "a", 1) != share_of("t", "a", 1)
