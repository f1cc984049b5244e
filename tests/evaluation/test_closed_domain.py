"""Questions with texts that do and do not answer them; right and made-up answers of HaluEval."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heedful.errors import DataError
from heedful.evaluation.closed_domain import (
    CLOSED_DOMAIN_TASKS,
    balanced,
    closed_domain_items,
    general_items,
    general_scores,
    pair_scores,
)
from heedful.evaluation.items import MissingData, locate

TASKS = {task.name: task for task in CLOSED_DOMAIN_TASKS}


def article(title, texts):
    return {
        "title": title,
        "paragraphs": [
            {
                "context": text,
                "qas": [{"id": name, "question": f"{name}?", "answers": [{"text": answer}]}],
            }
            for text, name, answer in texts
        ],
    }


def test_every_question_is_asked_of_a_text_without_its_answer(tmp_path):
    articles = [
        article("Rivers", [("The Oder is long.", "q1", "Oder"), ("The Po is short.", "q2", "Po")]),
        article("Towns", [("Ulm is on the Danube.", "q3", "Ulm"), ("An Oder town.", "q4", "Oder")]),
    ]
    unanswerable = {"id": "q5", "question": "q5?", "answers": [], "is_impossible": True}
    articles[0]["paragraphs"][0]["qas"].append(unanswerable)
    path = tmp_path / "xquad.en.json"
    path.write_text(json.dumps({"data": articles}))
    items = list(closed_domain_items([path], 0))
    assert [item.id for item in items] == [f"q{i}" for i in (1, 1, 2, 2, 3, 3, 4, 4)]
    own, other = items[0], items[1]
    assert own.facts == {"references": ["Oder"], "background": "The Oder is long."}
    assert own.prompt.endswith("Background: The Oder is long.\n\nQ: q1?\n\nA:")
    assert (own.variant, other.variant) == ("in the text", "not in the text")
    # of the other article's two texts only one has no Oder in it
    assert other.facts["background"] == "Ulm is on the Danube."
    assert "Title: Towns" in other.prompt and other.prompt.endswith("Q: q1?\n\nA:")
    assert items[7].facts["background"] == "The Po is short."  # nor has the first of Rivers
    said = ["The Oder", "Ulm", "Not in background."]
    rows = [
        {"response": text, "facts": item.facts}
        for text, item in zip(said, (own, other, other), strict=True)
    ]
    scores = TASKS["closed_domain"].score(rows, None)
    assert [row.get("made_up") for row in scores] == [None, 1.0, 0.0]
    assert [row.get("unsupported") for row in scores] == [0.0, 0.0, None]


HALUEVAL = {
    "qa": (
        {
            "knowledge": "Ulm is on the Danube.",
            "question": "Which river?",
            "right_answer": "The Danube",
            "hallucinated_answer": "Ulm is on the Rhine.",
        },
        "Ulm is on the Danube.\n\nQ: Which river?\n\nA:",
        (" The Danube", " Ulm is on the Rhine."),
    ),
    "dialogue": (
        {
            "knowledge": "Ulm is on the Danube. ",
            "dialogue_history": "[Human]: Hi. [Assistant]: Hello! [Human]: Which river? ",
            "right_response": "The Danube.",
            "hallucinated_response": "The Rhine.",
        },
        "Ulm is on the Danube. \n\nHuman: Hi.\nAssistant: Hello!\nHuman: Which river?\nAssistant:",
        (" The Danube.", " The Rhine."),
    ),
    "summarization": (
        {
            "document": "Ulm is on the Danube, as are others.",
            "right_summary": "On rivers.",
            "hallucinated_summary": "On the Rhine.",
        },
        "Ulm is on the Danube, as are others.\n\nTL;DR:",
        (" On rivers.", " On the Rhine."),
    ),
}


@pytest.mark.parametrize("kind", HALUEVAL)
def test_pairs_of_a_right_and_a_made_up_answer(tmp_path, kind):
    task, (row, prompt, choices) = TASKS[f"halueval_{kind}"], HALUEVAL[kind]
    with pytest.raises(MissingData, match=rf"halueval/{kind}_data.json .*HaluEval .*MIT"):
        locate(task, tmp_path)
    path = tmp_path / "halueval" / f"{kind}_data.json"
    path.parent.mkdir()
    path.write_text(json.dumps(row) + "\n")
    (item,) = task.items(locate(task, tmp_path), 0)
    assert (item.prompt, item.choices) == (prompt, choices)
    path.write_text(json.dumps(dict(list(row.items())[1:])))
    with pytest.raises(DataError, match=f"line 1: the field {next(iter(row))!r} is missing"):
        list(task.items([path], 0))


def test_the_likelier_answer_is_by_the_average_per_token():
    rows = [
        {"logprobs": [-2.0, -3.0], "num_tokens": [1, 3]},  # -2 and -1 a token
        {"logprobs": [-4.0, -3.0], "num_tokens": [4, 2]},  # -1 and -1.5
        {"logprobs": [-4.0, -2.0], "num_tokens": [4, 2]},  # as likely as each other
    ]
    assert pair_scores(rows, None) == [{"right": 0.0}, {"right": 1.0}, {"right": 0.5}]


def test_yes_and_no_are_weighed_alike_however_many_answers_are_made_up(tmp_path):
    path = tmp_path / "general_data.json"
    rows = [
        {
            "ID": str(i),
            "user_query": "Which river?",
            "chatgpt_response": "The Rhine.",
            "hallucination": label,
            "hallucination_spans": [],
        }
        for i, label in enumerate(["yes", "no", "no", "no"])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(general_items([path], 0))
    assert items[0].prompt.endswith(
        "\n\nQuestion: Which river?\nResponse: The Rhine.\n"
        "Not true, or nobody can check (Yes or No):"
    )
    path.write_text(json.dumps(rows[0] | {"hallucination": ""}))
    with pytest.raises(DataError, match="line 1: hallucination is '': yes or no is needed"):
        list(general_items([path], 0))
    yes, no = [-1.0, -2.0], [-2.0, -1.0]
    said = [
        {"logprobs": values, "num_tokens": [1, 1], "facts": item.facts}
        for values, item in zip([yes, yes, no, no], items, strict=True)
    ]
    scores = general_scores(said, None)
    assert scores == [{"found": 1.0}, {"false_alarm": 1.0}, {"false_alarm": 0}, {"false_alarm": 0}]
    tie = [row | {"logprobs": [-1.0, -1.0]} for row in said[:2]]
    assert general_scores(tie, None) == [{"found": 0.5}, {"false_alarm": 0.5}]
    # found 1 of 1, false alarms 1 of 3
    assert balanced(np.array([[1.0, 1 / 3]]))[0] == pytest.approx(5 / 6)
    assert balanced(np.array([[1.0, 1.0], [0.0, 0.0]])) == pytest.approx(
        [0.5, 0.5]
    )  # always, never
