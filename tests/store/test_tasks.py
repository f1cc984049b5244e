"""A labeler's work, step by step, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heedful.records import METADATA_FIELDS, Rating
from heedful.store import pools, projects, tasks
from heedful.store.answers import DemonstrationAnswer, PromptLabels, RankingAnswer
from heedful.store.problems import AnswerProblem, Conflict, DraftConflict, NotFound
from heedful.store.tables import assignments

NO = dict.fromkeys(METADATA_FIELDS, False)


def ranking(*ranks: int, **labels: bool) -> RankingAnswer:
    """Ranks in the order shown, with a rating of 8 less the rank for each output."""
    rated = tuple(Rating(8 - rank, dict(NO)) for rank in ranks)
    return RankingAnswer(ranks, rated, PromptLabels(flags=dict(labels)))


def claim(house, labeler, kind="ranking", after=0.0):
    who = house.labelers[labeler]
    return house.write(tasks.claim, house.project.id, who, kind, now=house.now + after)


def submit(house, labeler, work, answer, key="key", after=1.0):
    who = house.labelers[labeler]
    return house.write(tasks.submit, work.id, who, answer, key=key, now=house.now + after)


def slots(house, name):
    """(open slots, open slots of the held-out cohort) of a prompt's ranking task."""
    query = pools.tasks.select().where(pools.tasks.c.id == house.tasks[name])
    with house.database.read() as connection:
        row = connection.execute(query).one()
    return row.open_slots, row.heldout_open


def test_the_same_labeler_gets_the_same_task_in_every_tab_and_others_get_others(house):
    first = claim(house, 0)
    assert first.prompt.startswith("Prompt ") and len(first.outputs) == 4
    assert first.lease_until == house.now + 100
    again = claim(house, 0, after=5)
    assert (again.id, again.lease_until) == (first.id, house.now + 105)
    assert {claim(house, 1).prompt, claim(house, 2).prompt, first.prompt} != {first.prompt}
    assert len({claim(house, n).prompt for n in (0, 1, 2)}) == 3


def test_work_ends_when_all_targets_are_met(house):
    seen = set()
    for number in range(4):
        work = claim(house, 0)
        seen.add(work.prompt)
        submit(house, 0, work, ranking(1, 2, 2, 4), key=f"k{number}")
    assert len(seen) == 4
    assert claim(house, 0) is None and claim(house, 1) is None


def test_a_submission_is_kept_once_whatever_is_sent_again(house):
    work = claim(house, 0)
    first = submit(house, 0, work, ranking(1, 2, 2, 4))
    again = submit(house, 0, work, ranking(1, 2, 2, 4), after=9.0)
    assert replace(again, is_replay=False) == first and again.is_replay
    with pytest.raises(Conflict, match="another answer"):
        submit(house, 0, work, ranking(4, 2, 2, 1))
    with pytest.raises(Conflict, match="submitted already"):
        submit(house, 0, work, ranking(1, 2, 2, 4), key="other")


def test_a_task_is_its_labelers_alone(house):
    work = claim(house, 0)
    for act in (tasks.view, tasks.skip, tasks.undo, tasks.heartbeat):
        now = {} if act is tasks.view else {"now": house.now}
        with pytest.raises(NotFound):
            house.write(act, work.id, house.labelers[1], **now)
    with pytest.raises(NotFound):
        submit(house, 1, work, ranking(1, 2, 3, 4))


def test_answers_that_do_not_fit_are_refused_by_field(house):
    work = claim(house, 0)
    with pytest.raises(AnswerProblem, match=r"ranks: has 3 for 4"):
        submit(house, 0, work, ranking(1, 2, 3))
    with pytest.raises(AnswerProblem, match=r"ranks\.1: is 5"):
        submit(house, 0, work, RankingAnswer((1, 5, 1, 1), (Rating(1, NO),) * 4))
    with pytest.raises(AnswerProblem, match=r"ratings\.0: is missing"):
        submit(house, 0, work, RankingAnswer((1, 2, 3, 4), (None,) * 4))
    with pytest.raises(AnswerProblem, match=r"ratings\.0\.hallucination: needs a yes or a no"):
        flags = {**NO, "hallucination": None}
        submit(house, 0, work, RankingAnswer((1, 2, 3, 4), (Rating(3, flags),) * 4))
    with pytest.raises(AnswerProblem, match=r"labels\.nice: is not asked"):
        submit(house, 0, work, ranking(1, 2, 3, 4, nice=True))
    with pytest.raises(Conflict, match="ranking task"):
        submit(house, 0, work, DemonstrationAnswer("text"))
    submit(house, 0, work, ranking(1, 2, 3, 4))  # nothing of the above has used up the task


def test_an_expired_task_goes_to_others_and_comes_back_with_its_draft_while_it_is_open(house):
    work = claim(house, 0)
    who = house.labelers[0]
    draft = {"ranks": [1]}
    assert house.write(tasks.save_draft, work.id, who, draft, revision=0, now=house.now) == 1
    assert house.write(tasks.expire, now=house.now + 99) == 0
    assert house.write(tasks.expire, now=house.now + 100) == 1
    back = claim(house, 0, after=200)
    assert (back.id, back.draft, back.draft_revision) == (work.id, draft, 1)
    assert house.write(tasks.expire, now=house.now + 300) == 1
    taken = [claim(house, 1, after=300)]
    while taken[-1].prompt != work.prompt:
        submit(house, 1, taken[-1], ranking(1, 1, 1, 1), key=f"o{len(taken)}", after=301)
        taken.append(claim(house, 1, after=301))
    assert claim(house, 0, after=302).id != work.id
    assert house.write(tasks.heartbeat, work.id, who, now=house.now + 303).state == "expired"


def test_a_late_answer_counts_while_there_is_a_slot_and_is_extra_after(house):
    work = claim(house, 0)
    name = f"p{work.prompt[-1]}"
    house.write(tasks.expire, now=house.now + 100)
    assert slots(house, name) == (1, 0)
    late = submit(house, 0, work, ranking(1, 2, 3, 4), after=150)
    assert (late.is_late, late.is_extra) == (True, False)
    assert slots(house, name) == (0, 0)

    work = claim(house, 0, after=200)
    house.write(tasks.expire, now=house.now + 300)
    number = 0
    while (other := claim(house, 1, after=300)) is not None:
        number += 1
        submit(house, 1, other, ranking(1, 1, 1, 1), key=f"o{number}", after=301)
    extra = submit(house, 0, work, ranking(1, 2, 3, 4), key="extra", after=400)
    assert (extra.is_late, extra.is_extra) == (True, True)
    assert slots(house, f"p{work.prompt[-1]}") == (0, 0)


def test_drafts_of_two_tabs_do_not_overwrite_each_other(house):
    work = claim(house, 0)
    who = house.labelers[0]
    house.write(tasks.save_draft, work.id, who, {"a": 1}, revision=0, now=house.now)
    with pytest.raises(DraftConflict) as caught:
        house.write(tasks.save_draft, work.id, who, {"a": 2}, revision=0, now=house.now)
    assert (caught.value.payload, caught.value.revision) == ({"a": 1}, 1)
    # The answer to the first save was lost on its way: the page sends it again.
    assert house.write(tasks.save_draft, work.id, who, {"a": 1}, revision=0, now=house.now) == 1
    assert house.write(tasks.save_draft, work.id, who, {"a": 3}, revision=1, now=house.now) == 2


def test_the_working_time_of_a_draft_is_the_most_that_a_tab_has_counted(house):
    work = claim(house, 0)
    who = house.labelers[0]

    def kept():
        return house.read(tasks.view, work.id, who).active_s

    assert kept() is None
    house.write(tasks.heartbeat, work.id, who, active_s=40.0, now=house.now)
    house.write(tasks.save_draft, work.id, who, {"a": 1}, revision=0, active_s=7.0, now=house.now)
    house.write(tasks.save_draft, work.id, who, {"a": 2}, revision=1, now=house.now)
    assert kept() == 40.0
    house.write(tasks.save_draft, work.id, who, {"a": 3}, revision=2, active_s=41.5, now=house.now)
    house.write(tasks.skip, work.id, who, now=house.now)
    house.write(tasks.heartbeat, work.id, who, active_s=900.0, now=house.now)  # an old tab
    assert kept() == 41.5


def test_a_draft_of_any_text_is_kept_and_a_number_that_is_none_is_refused(house):
    work = claim(house, 0)
    who = house.labelers[0]
    odd = {"text": "half \ud83d, nothing \x00, turned \u202e"}
    house.write(tasks.save_draft, work.id, who, odd, revision=0, now=house.now)
    assert house.read(tasks.view, work.id, who).draft == odd
    with pytest.raises(AnswerProblem, match="draft"):
        house.write(tasks.save_draft, work.id, who, [float("inf")], revision=1, now=house.now)


def test_a_page_cannot_claim_more_working_time_than_has_passed(house):
    times = {}
    for number, said in enumerate((5.0, 1e9, -1.0, float("nan"))):
        work = claim(house, 0)
        who = house.labelers[0]
        house.write(
            tasks.submit,
            work.id,
            who,
            ranking(1, 2, 3, 4),
            key=f"k{number}",
            active_s=said,
            now=house.now + 7,
        )
        query = assignments.select().where(assignments.c.id == work.id)
        with house.database.read() as connection:
            times[number] = connection.execute(query).one().active_s
    assert times == {0: 5.0, 1: 7.0, 2: None, 3: None}


def test_undo_takes_a_submission_back_and_its_key_stays_used(house):
    work = claim(house, 0)
    who = house.labelers[0]
    house.write(tasks.save_draft, work.id, who, {"a": 1}, revision=0, now=house.now)
    first = submit(house, 0, work, ranking(1, 2, 2, 4))
    following = claim(house, 0, after=2)
    back = house.write(tasks.undo, work.id, who, now=house.now + 3)
    assert (back.id, back.state, back.draft) == (work.id, "leased", {"a": 1})
    replay = submit(house, 0, work, ranking(1, 2, 2, 4), after=4)
    assert (replay.submission_id, replay.is_withdrawn) == (first.submission_id, True)
    assert house.read(tasks.view, work.id, who).state == "leased"
    second = submit(house, 0, work, ranking(2, 1, 1, 1), key="second", after=5)
    assert second.submission_id != first.submission_id
    assert claim(house, 0, after=6).id == following.id  # what was put aside comes back
    with pytest.raises(Conflict, match="too late"):
        house.write(tasks.undo, work.id, who, now=house.now + 16)


def test_a_skip_frees_the_task_and_can_be_taken_back(house):
    work = claim(house, 0)
    who = house.labelers[0]
    name = f"p{work.prompt[-1]}"
    house.write(tasks.save_draft, work.id, who, {"a": 1}, revision=0, now=house.now)
    house.write(tasks.skip, work.id, who, reason="unclear", now=house.now)
    house.write(tasks.skip, work.id, who, reason="again", now=house.now)
    assert slots(house, name) == (1, 0)
    assert claim(house, 0).id != work.id
    back = house.write(tasks.undo, work.id, who, now=house.now + 3600)
    assert (back.state, back.draft) == ("leased", {"a": 1})
    assert slots(house, name) == (0, 0)


def test_a_flagged_prompt_is_given_out_no_more_until_somebody_has_decided(house):
    work = claim(house, 0)
    number = house.prompts[f"p{work.prompt[-1]}"]
    submit(house, 0, work, ranking(1, 2, 3, 4, pii=True))
    assert house.read(projects.prompt, number).state == "quarantined"
    others = {claim(house, n).prompt for n in (0, 1, 2)}
    assert len(others) == 3 and work.prompt not in others
    expired = house.write(tasks.undo, work.id, house.labelers[0], now=house.now + 2)
    assert expired.state == "expired"  # nobody works on it, its first labeler neither
    house.write(projects.release, number, actor=house.admin, now=house.now)
    assert house.read(projects.prompt, number).state == "active"


def test_held_out_labelers_are_given_shared_tasks_alone(house):
    assert claim(house, 3) is None
    settings = replace(house.project.settings, overlap_fraction=1.0, overlap_n=2, heldout_n=1)
    house.write(pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now)
    work = claim(house, 3)
    name = f"p{work.prompt[-1]}"
    assert slots(house, name) == (2, 0)
    submit(house, 3, work, ranking(1, 2, 3, 4))
    assert slots(house, name) == (2, 0)


def test_overlap_can_be_changed_while_people_are_at_work(house):
    works = [claim(house, 0), claim(house, 1)]
    names = [f"p{work.prompt[-1]}" for work in works]
    submit(house, 0, works[0], ranking(1, 2, 3, 4))

    def ask_for(number):
        settings = replace(house.project.settings, overlap_fraction=1.0, overlap_n=number)
        house.write(
            pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now
        )

    ask_for(3)
    assert [slots(house, name)[0] for name in names] == [2, 2]
    submit(house, 1, works[1], ranking(1, 2, 3, 4), key="one")
    again = claim(house, 1)
    ask_for(1)
    assert [slots(house, name)[0] for name in names] == [0, 0]
    house.write(tasks.skip, again.id, house.labelers[1], now=house.now)
    assert slots(house, f"p{again.prompt[-1]}")[0] == (
        again.prompt not in {w.prompt for w in works}
    )


def test_the_order_of_outputs_differs_and_says_nothing(house):
    settings = replace(house.project.settings, overlap_fraction=1.0, overlap_n=3)
    house.write(pools.change_settings, house.project.id, settings, actor=house.admin, now=house.now)
    shown = {claim(house, n).outputs for n in (0, 1, 2)}
    assert len(shown) > 1
    assert all("model" not in text for outputs in shown for text in outputs)
