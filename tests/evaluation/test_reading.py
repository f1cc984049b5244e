"""Questions about texts as published; F1 of QuAC worked out by hand."""

from __future__ import annotations

import json

import pytest

from heedful.errors import DataError
from heedful.evaluation.reading import (
    drop_items,
    drop_scores,
    drop_spans,
    quac_items,
    quac_scores,
)
from heedful.evaluation.scorers import quac_f1, quac_human_f1, quac_references

NONE = "CANNOTANSWER"
DROP = {
    "nfl_1": {
        "passage": "Two goals and then three.",
        "qa_pairs": [
            {
                "query_id": "a",
                "question": "How many?",
                "answer": {"number": "5", "date": {}, "spans": []},
                "validated_answers": [{"number": "", "date": {}, "spans": ["five goals"]}],
            },
            {
                "query_id": "b",
                "question": "When?",
                "answer": {
                    "number": "",
                    "date": {"day": "", "month": "May", "year": "1990"},
                    "spans": [],
                },
            },
        ],
    },
    "history_2": {
        "passage": "Ann and Bo came.",
        "qa_pairs": [
            {
                "query_id": "c",
                "question": "Who?",
                "answer": {"number": "", "date": {}, "spans": ["Ann", "Bo"]},
            }
        ],
    },
}


def test_drop_items_have_every_reference(tmp_path):
    path = tmp_path / "drop.json"
    path.write_text(json.dumps(DROP))
    items = {item.id: item for item in drop_items([path], 0)}
    assert items["a"].facts["references"] == [["5"], ["five goals"]]
    assert items["b"].facts["references"] == [["May 1990"]]
    assert items["c"].facts["references"] == [["Ann", "Bo"]]
    assert items["a"].prompt.endswith(
        "\n\nPassage: Two goals and then three.\nQuestion: How many?\nAnswer:"
    )
    rows = [{"response": "five", "facts": items["a"].facts}]
    assert drop_scores(rows, None) == [{"f1": 67.0, "exact": 0.0}]
    assert drop_spans({"number": "", "spans": [], "date": {}}) == []


def test_shots_are_of_other_texts_and_are_not_asked(tmp_path):
    path = tmp_path / "drop.json"
    path.write_text(json.dumps(DROP))
    items = list(drop_items([path], 1))
    ids = {item.id for item in items}
    assert ids in ({"a", "b"}, {"c"})
    shown = "Ann and Bo came." if ids == {"a", "b"} else "Two goals and then three."
    assert all(item.prompt.count("Passage: ") == 2 for item in items)
    assert all(f"Passage: {shown}" in item.prompt for item in items)
    with pytest.raises(DataError, match="3 shots are asked for; the data has texts for 2"):
        list(drop_items([path], 3))


def turn(number, question, answers, own):
    return {
        "id": f"C_1_0_q#{number}",
        "question": question,
        "answers": [{"text": text, "answer_start": 0} for text in answers],
        "orig_answer": {"text": own, "answer_start": 0},
        "followup": "y",
        "yesno": "x",
    }


QUAC = {
    "data": [
        {
            "title": "Ann Lee",
            "section_title": "Youth",
            "background": "A singer.",
            "paragraphs": [
                {
                    "id": "C_1_0",
                    "context": "Ann Lee sang in a choir at nine. CANNOTANSWER",
                    "qas": [
                        turn(0, "What did she do?", ["sang in a choir"], "sang in a choir"),
                        turn(1, "Who taught her?", [NONE, NONE, "a choir"], NONE),
                        turn(2, "When?", ["at nine", "nine", NONE], "at nine"),
                    ],
                }
            ],
        }
    ]
}


def quac(tmp_path):
    path = tmp_path / "val_v0.2.json"
    path.write_text(json.dumps(QUAC))
    return path


def test_a_conversation_is_asked_turn_by_turn(tmp_path):
    items = list(quac_items([quac(tmp_path)], 0))
    assert [item.cluster for item in items] == ["C_1_0"] * 3
    assert items[2].prompt == (
        "Answer each question using information in the preceding background paragraph.\n"
        'If there is not enough information provided, answer with "I don\'t know."\n\n'
        "TITLE: Ann Lee\n\nPARAGRAPH: Ann Lee sang in a choir at nine.\n\n"
        "Q: What did she do?\n\nA: sang in a choir\n\n"
        "Q: Who taught her?\n\nA: I don't know.\n\nQ: When?\n\nA:"
    )


def test_answers_are_measured_as_people_are(tmp_path):
    """Half and more say there is no answer: then that is the answer. Else those do not count."""
    assert quac_references([NONE, NONE, "a choir"], NONE) == [NONE]
    assert quac_references([NONE, "a choir"], NONE) == [NONE]
    assert quac_references([NONE, "a choir", "the choir"], NONE) == ["a choir", "the choir"]
    # words in common 2 of 2 and 4, 1 of 2 and 1, 0 of 2 and 2: F1 2/3, 2/3, 0
    references = ["red barn by lake", "red", "blue house"]
    assert quac_f1("red barn", references) == pytest.approx(2 / 3)
    # without the first: the largest of 1 and 0; without the second: of 2/5 and 0; else 1
    assert quac_f1("red", references) == pytest.approx((1 + 0.4 + 1) / 3)
    assert quac_f1("the", ["a red barn"]) == 0
    # each against the others: 2/5, 2/5, 0
    assert quac_human_f1(references) == pytest.approx(0.8 / 3)
    assert quac_human_f1(["alone"]) == 1


def test_what_people_do_not_agree_on_is_not_counted(tmp_path):
    items = list(quac_items([quac(tmp_path)], 0))
    said = ["She sang", "I don't know", "at nine"]
    rows = [{"response": s, "facts": i.facts} for s, i in zip(said, items, strict=True)]
    # one word of two and of three; no answer; "at nine" against "nine" 2/3, against itself 1
    expected = [100 * 2 / 5, 100.0, 100 * (2 / 3 + 1) / 2]
    assert [row["f1"] for row in quac_scores(rows, None)] == pytest.approx(expected)
    facts = {"references": ["red barn", "blue house", "green"]}
    assert quac_scores([{"response": "red barn", "facts": facts}], None) == [{"f1": None}]
    facts = {"references": [NONE, NONE]}
    assert quac_scores([{"response": "red", "facts": facts}], None) == [{"f1": 0.0}]
