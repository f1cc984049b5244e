"""Items of the NLP data sets as published; BLEU and ROUGE-L beside the packages that count them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from heedful.errors import DataError
from heedful.evaluation.nlp import (
    choice_scores,
    cnn_dm_items,
    drop_items,
    drop_scores,
    drop_spans,
    fr_en_items,
    hellaswag_items,
    summary_scores,
    translation_scores,
)
from heedful.evaluation.scorers import BLEU_COLUMNS, bleu

SAID = ["The cat sat on the mat today.", "He ran to the shop and back.", "Nothing at all"]
WANTED = ["The cat sat on a mat today.", "He ran to the shop, then back home.", "It was nothing"]


def test_bleu_of_rows_is_that_of_sacrebleu():
    rows = [
        {"response": said, "facts": {"reference": wanted}}
        for said, wanted in zip(SAID, WANTED, strict=True)
    ]
    scores = translation_scores(rows, None)
    counts = np.array([[row[column] for column in BLEU_COLUMNS] for row in scores])
    expected = sacrebleu.corpus_bleu(SAID, [WANTED], smooth_method="none").score
    assert expected > 10
    assert bleu(counts.mean(axis=0, keepdims=True))[0] == pytest.approx(expected)


def test_rouge_l_is_that_of_rouge_score():
    rows = [{"response": SAID[1], "facts": {"reference": WANTED[1]}}]
    expected = RougeScorer(["rougeL"], use_stemmer=True).score(WANTED[1], SAID[1])["rougeL"]
    assert summary_scores(rows, None) == [{"rouge_l": expected.fmeasure}]


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


def test_hellaswag_is_by_the_average_per_token(tmp_path):
    path = tmp_path / "hellaswag.jsonl"
    row = {"ind": 4, "ctx": "She lifts.", "endings": ["a", "b", "c", "d"], "label": 2}
    path.write_text(json.dumps(row) + "\n")
    (item,) = hellaswag_items([path], 0)
    assert item.prompt.endswith("common-sense reasoning.\n\nShe lifts.")
    assert item.choices == (" a", " b", " c", " d")
    said = {"logprobs": [-2.0, -3.0, -4.0, -5.0], "num_tokens": [1, 2, 4, 3], "facts": item.facts}
    assert choice_scores([said], None) == [{"accuracy": 1.0}]


def test_translations_are_line_by_line(tmp_path):
    french, english = tmp_path / "fr", tmp_path / "en"
    french.write_text("Un chat.\nDeux chats.\n")
    english.write_text("A cat.\nTwo cats.\n")
    items = list(fr_en_items([french, english], 1))
    assert len(items) == 1
    assert items[0].prompt.count("French: ") == 2
    english.write_text("A cat.\n")
    with pytest.raises(DataError, match=r"2 lines, .* 1: line n of both"):
        list(fr_en_items([french, english], 0))


def test_a_row_without_its_field_is_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"article": "x", "highlights": "y"}\n{"article": "x"}\n')
    with pytest.raises(DataError, match=r"test.jsonl, line 2: the field 'highlights' is missing"):
        list(cnn_dm_items([path], 0))
