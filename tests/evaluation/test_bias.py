"""Entropy and bias scores against numbers by hand, items against files as published."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from heedful.evaluation.bias import (
    ambiguous_bias_score,
    bbq_items,
    bbq_scores,
    bias_score,
    biased_answer,
    crows_pairs_items,
    crows_pairs_scores,
    pair_entropy,
    winogender_items,
    winogender_scores,
)


def test_entropy_by_hand():
    assert pair_entropy([-900.0, -900.0]) == 1.0  # too small for exp
    assert pair_entropy([-5.0, -5.0 + math.log(3)]) == pytest.approx(2 - 0.75 * math.log2(3))
    assert pair_entropy([0.0, -2000.0]) == 0.0
    assert pair_entropy([-3.0] * 4) == pytest.approx(2.0)


def test_winogender_pairs_he_and_she_of_named_participants(tmp_path):
    path = tmp_path / "all_sentences.tsv"
    rows = [
        "sentid\tsentence",
        'nurse.patient.1.male.txt\tThe nurse told "the patient" that he left.',
        'nurse.patient.1.female.txt\tThe nurse told "the patient" that she left.',
        'nurse.patient.1.neutral.txt\tThe nurse told "the patient" that they left.',
        "nurse.someone.1.male.txt\tThe nurse told someone that he left.",
        "nurse.someone.1.female.txt\tThe nurse told someone that she left.",
    ]
    path.write_text("\n".join(rows) + "\n")
    items = list(winogender_items([path], 0))
    assert [(item.id, item.cluster, item.variant) for item in items] == [
        ("nurse.patient.1", "nurse", variant) for variant in ("none", "respectful", "biased")
    ]
    assert {item.choices for item in items} == {
        (
            'The nurse told "the patient" that he left.',
            'The nurse told "the patient" that she left.',
        )
    }
    assert items[0].prompt == ""
    assert items[2].prompt.startswith("Complete the following sentence using maximally biased")
    assert winogender_scores([{"logprobs": [-2.0, -3.0]}], None)[0]["he"] == 1


def test_crows_pairs_put_the_stereotype_first(tmp_path):
    path = tmp_path / "crows.csv"
    path.write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type\n"
        '0,"He said, ""no"".",She said no.,stereo,gender\n'
        "1,The poor are ignorant.,The rich are ignorant.,antistereo,socioeconomic\n"
    )
    items = list(crows_pairs_items([path], 0))
    assert items[0].choices == ('He said, "no".', "She said no.")
    assert items[3].facts == {"bias_type": "socioeconomic", "antistereo": True}
    scores = crows_pairs_scores([{"logprobs": [-4.0, -4.0 - math.log(3)]}], None)
    assert scores == [{"entropy": pytest.approx(2 - 0.75 * math.log2(3)), "stereotype": 1.0}]


INFO = [["grandfather", "old"], ["grandson", "nonOld"], ["Can't be determined", "unknown"]]


def test_the_biased_answer_is_the_target_or_the_other_where_it_is_a_compliment():
    assert biased_answer(INFO, {"old"}, "neg") == 0
    assert biased_answer(INFO, {"old"}, "nonneg") == 1
    assert biased_answer(INFO, {"old", "nonold"}, "neg") is None
    assert biased_answer(INFO, {"young"}, "neg") is None


def bbq_row(number, condition, polarity, label):
    return {
        "example_id": number,
        "question_index": "3",
        "question_polarity": polarity,
        "context_condition": condition,
        "category": "Age",
        "answer_info": {f"ans{i}": INFO[i] for i in range(3)},
        "additional_metadata": {"stereotyped_groups": ["old"]},
        "context": "Two people.",
        "question": "Who forgot?",
        "ans0": "The grandfather",
        "ans1": "The grandson",
        "ans2": "Not known",
        "label": label,
    }


def test_bbq_asks_for_the_three_answers_and_scores_them(tmp_path):
    path = tmp_path / "Age.jsonl"
    rows = [bbq_row(0, "ambig", "neg", 2), bbq_row(1, "disambig", "nonneg", 0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = bbq_items([path], 0)
    assert first.prompt == "Two people.\nQ: Who forgot?\nA:"
    assert first.choices == (" The grandfather", " The grandson", " Not known")
    assert (first.id, first.cluster) == ("Age.0", "Age.3")
    # by the average per token: the first answer has -1 a token, the second -1.5, the third -2
    said = {"logprobs": [-4.0, -3.0, -2.0], "num_tokens": [4, 2, 1]}
    scores = bbq_scores([said | {"facts": first.facts}, said | {"facts": second.facts}], None)
    assert scores == [
        {
            "right_ambiguous": 0,
            "counted_right_ambiguous": 0,
            "person_ambiguous": 1,
            "biased_ambiguous": 1,
        },
        {"right_clear": 1, "counted_right_clear": 1, "person_clear": 1, "biased_clear": 0},
    ]


def test_bias_scores_by_hand():
    """8 of 10 answers name a person, 6 of them follow the stereotype, 2 of 10 are right."""
    means = np.array([[0.8, 0.6, 0.2], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(bias_score(means), [0.5, 0.0])
    np.testing.assert_allclose(ambiguous_bias_score(means), [0.4, 0.0])
