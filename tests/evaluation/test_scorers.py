"""F1 of SQuAD and DROP, BLEU: against numbers counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from heedful.evaluation.scorers import (
    bleu,
    drop_exact,
    drop_f1,
    drop_normalize,
    squad_exact,
    squad_f1,
    squad_normalize,
)


def test_squad_compares_words_without_case_articles_and_punctuation():
    assert squad_normalize("The  Eiffel-Tower, (an) A. B.!") == "eiffeltower b"
    assert squad_exact("the Denver Broncos.", ["Denver Broncos"]) == 1
    assert squad_exact("Broncos", ["Denver Broncos", "Carolina Panthers"]) == 0


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1.0),
        ("the Broncos", ["Denver Broncos"], 2 * 1 * 0.5 / 1.5),
        ("in 1887 or so", ["1887", "the year 1887 or so"], 2 * (3 / 4) * (3 / 4) / 1.5),
        ("very very good", ["very good"], 2 * (2 / 3) * 1 / (5 / 3)),  # a word counts as often
        ("no idea", ["yes"], 0.0),
        ("", [""], 1.0),  # nothing where nothing is the answer
        ("something", [""], 0.0),
        ("", ["something"], 0.0),
        ("the", ["a"], 1.0),  # articles alone are nothing
    ],
)
def test_squad_f1(answer, references, expected):
    assert squad_f1(answer, references) == pytest.approx(expected)


def test_drop_reads_numbers_as_numbers_and_hyphens_as_spaces():
    assert drop_normalize("The 10,000-meter run") == "10000.0 meter run"
    assert drop_normalize("7.0") == drop_normalize("7") == "7.0"
    assert drop_normalize("U.S.") == "us"
    assert drop_normalize("an apple") == "apple"


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("10", [["10.0"]], 1.0),
        ("7 yards", [["7"]], 0.67),  # precision 1/2, recall 1, to two digits
        ("13 yards", [["14 yards"]], 0.0),  # the number is another: nothing counts
        ("about yards", [["14 yards"]], 0.0),
        ("New York", [["New York City"]], 0.8),  # precision 1, recall 2/3
        ("New York", [["Boston"], ["York"]], 0.67),  # the better reference
        (["cat", "dog"], [["dog"]], 0.5),  # a span without a partner
        (["red cat", "dog"], [["dog", "cat"]], 0.83),  # (2/3 + 1) / 2
        ("dog", [["dog", "cat"]], 0.5),
        ("", [["dog"]], 0.0),
    ],
)
def test_drop_f1(answer, references, expected):
    assert drop_f1(answer, references) == expected


def test_drop_exact_match_is_of_all_spans():
    assert drop_exact(["Cat", "the dog"], [["dog", "cat"]]) == 1
    assert drop_exact("dog", [["dog", "cat"]]) == 0
    assert drop_exact("5", [["4"], ["5.0"]]) == 1


def test_bleu_of_counts_by_hand():
    """Two sentences: 8 of 10 words, 5 of 8 pairs, 3 of 6, 1 of 4; 10 words for 12."""
    counts = np.array([[8, 5, 3, 1, 10, 8, 6, 4, 10, 12], [0] * 10], dtype=float)
    expected = 100 * math.exp(1 - 12 / 10) * (0.8 * 0.625 * 0.5 * 0.25) ** 0.25
    assert bleu(counts.mean(axis=0, keepdims=True))[0] == pytest.approx(expected)
    counts[0, -1] = 9  # longer than its reference: no penalty
    assert bleu(counts[:1])[0] == pytest.approx(100 * (0.8 * 0.625 * 0.5 * 0.25) ** 0.25)
    assert bleu(np.zeros((1, 10)))[0] == 0


def test_a_published_question_without_an_answer(tmp_path):
    """The rows of the SQuAD v2 file: what is wanted of one without an answer is to say so."""
    from heedful.evaluation.reading import squad_items, squad_scores

    text = "The Caprivi has the most rain, about 600 mm a year."
    rows = [
        {"id": "1", "question": "Least rain?", "answers": [], "is_impossible": True},
        {"id": "2", "question": "Most rain?", "answers": [{"text": "600 mm", "answer_start": 0}]},
    ]
    file = {"data": [{"title": "Na_mibia", "paragraphs": [{"context": text, "qas": rows}]}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(file))
    items = list(squad_items([path], 0))
    assert items[0].prompt == (
        "Answer each question using information in the preceding background paragraph.\n"
        'If there is not enough information provided, answer with "Not in background."\n\n'
        f"Title: Na mibia\n\nBackground: {text}\n\nQ: Least rain?\n\nA:"
    )
    said = ["Not in background", "300 mm", "600 mm", "Not in background.", "about 700 mm", ""]
    facts = [items[0].facts] * 2 + [items[1].facts] * 4
    rows = [{"response": r, "facts": f} for r, f in zip(said, facts, strict=True)]
    assert squad_scores(rows, None) == [
        {"f1": 100, "exact": 100, "made_up": 0},
        {"f1": 0, "exact": 0, "made_up": 1, "unsupported": 1},
        {"f1": 100, "exact": 100, "unsupported": 0},
        {"f1": 0, "exact": 0},
        {"f1": pytest.approx(40), "exact": 0, "unsupported": 1},
        {"f1": 0, "exact": 0},
    ]
