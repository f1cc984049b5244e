"""Tasks for people: nothing tells the model, the baseline is in each, and the way back."""

import json

import pytest

from heedful.errors import DataError
from heedful.evaluation.people import ONE_TEXT, judgements_of, ranking_tasks, read_key
from heedful.evaluation.preference import likert, win_rate
from heedful.records import Completion, Prompt, Ranking, Rating

MODELS = ("base", "PPO", "PPO-ptx", "prompted", "large")


def row(prompt_id, **texts):
    given = [
        Completion(f"{model}-1", text, model.replace("_", "-")) for model, text in texts.items()
    ]
    return Prompt(prompt_id, f"Prompt {prompt_id}"), tuple(given)


def full(number):
    return row(f"p{number}", SFT="s", base="b", PPO="p", PPO_ptx="x", prompted="m", large="l")


def test_tasks_are_blind_have_the_baseline_and_leave_out_models_in_turn():
    made = ranking_tasks(map(full, range(200)), MODELS, "SFT", most=4, seed=3)
    assert len(made.tasks) == 200
    shown = dict.fromkeys(MODELS, 0)
    first = 0
    for task, key in zip(made.tasks, made.key, strict=True):
        text = json.dumps(task)
        assert not any(name in text for name in ("SFT", "PPO", *MODELS, '"model"'))
        names = [name for one in task["completions"] for name in key["outputs"][one["id"]]]
        assert len(names) == 4 and "SFT" in names
        first += names[0] == "SFT"
        for name in names:
            if name != "SFT":
                shown[name] += 1
    # three of the five others in each of 200 tasks: 120 each, give or take 3 standard deviations
    assert all(abs(count - 120) < 21 for count in shown.values())
    assert abs(first - 50) < 20
    again = ranking_tasks(map(full, range(200)), MODELS, "SFT", most=4, seed=3)
    assert again == made


def test_equal_texts_are_shown_once_and_prompts_without_a_pair_not_at_all():
    rows = [
        row("twins", SFT="same", PPO="same", base="other"),
        row("all", SFT="same", PPO="same"),
        row("alone", SFT="s"),
        row("none", PPO="p", base="b"),
    ]
    made = ranking_tasks(rows, MODELS, "SFT", most=4, seed=0)
    assert [task["prompt_id"] for task in made.tasks] == ["twins"] and made.num_one_text == 1
    assert len(made.tasks[0]["completions"]) == 2
    key = read_key(json.loads(json.dumps(made.key)))
    assert sorted(map(sorted, key.values())) == [["PPO", "SFT"], ["PPO", "SFT"], ["base"]]


def test_answers_come_back_by_model():
    rows = [row("twins", SFT="same", PPO="same", base="other"), row("all", SFT="a", PPO="a")]
    made = ranking_tasks(rows, MODELS, "SFT", most=4, seed=0)
    outputs = tuple(Completion(one["id"], one["text"]) for one in made.tasks[0]["completions"])
    ranks = tuple(1 if one.text == "same" else 2 for one in outputs)
    ratings = tuple(Rating(6 if one.text == "same" else 3) for one in outputs)
    ranking = Ranking("twins", "Prompt", outputs, ranks, "ann", "heldout", ratings)
    found = judgements_of([ranking], read_key(made.key))
    assert dict(zip(found[0].models, found[0].ranks, strict=True)) == {
        "SFT": 1,
        "PPO": 1,
        "base": 2,
    }
    assert (found[0].labeler, found[0].cohort) == ("ann", "heldout")
    assert (found[1].prompt_id, found[1].labeler, found[1].ranks) == ("all", ONE_TEXT, (1, 1))
    assert win_rate(found, "PPO", "SFT").value == 0.5
    assert win_rate(found, "base", "SFT").value == 0.0
    means = {name: mean.interval.value for name, mean in likert(found).items()}
    assert means == {"SFT": 6, "PPO": 6, "base": 3}


def test_rankings_that_name_their_models_need_no_key():
    outputs = (Completion("1", "a", "SFT"), Completion("2", "b", "PPO"))
    (found,) = judgements_of([Ranking("p", "q", outputs, (2, 1), "ann")])
    assert (found.models, found.ranks, found.ratings) == (("SFT", "PPO"), (2, 1), None)
    blind = Ranking("p", "q", (Completion("1", "a"), Completion("2", "b")), (1, 2), "ann")
    with pytest.raises(DataError, match=r"prompt p: nobody says which model.*'1'.*key\.jsonl"):
        judgements_of([blind])
