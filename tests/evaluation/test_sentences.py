"""HellaSwag, RTE, SST and WSC in their published forms; who a pronoun refers to."""

from __future__ import annotations

import json

import pytest

from heedful.errors import DataError
from heedful.evaluation.items import chosen, locate
from heedful.evaluation.sentences import (
    SENTENCE_TASKS,
    choice_scores,
    hellaswag_items,
    rte_items,
    sst_items,
    wsc_items,
    wsc_scores,
)


def test_hellaswag_is_by_the_average_per_token(tmp_path):
    path = tmp_path / "hellaswag.jsonl"
    row = {"ind": 4, "ctx": "She lifts.", "endings": ["a", "b", "c", "d"], "label": 2}
    path.write_text(json.dumps(row) + "\n")
    (item,) = hellaswag_items([path], 0)
    assert item.prompt.endswith("common-sense reasoning.\n\nShe lifts.")
    assert item.choices == (" a", " b", " c", " d")
    said = {"logprobs": [-2.0, -3.0, -4.0, -5.0], "num_tokens": [1, 2, 4, 3], "facts": item.facts}
    assert choice_scores([said], None) == [{"accuracy": 1.0}]


PASSAGE = "Ann met Bo. They talked."
RTE_ROWS = [
    {"premise": PASSAGE, "hypothesis": "Ann met Bo.", "label": "entailment", "idx": 0},
    {"premise": PASSAGE, "hypothesis": "Bo slept.", "label": "not_entailment", "idx": 1},
]


def test_entailment_in_both_published_forms(tmp_path):
    glue = "index\tsentence1\tsentence2\tlabel\n" + "".join(
        f"{row['idx']}\t{row['premise']}\t{row['hypothesis']}\t{row['label']}\n" for row in RTE_ROWS
    )
    (tmp_path / "dev.tsv").write_text(glue)
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RTE_ROWS))
    items = list(rte_items([tmp_path / "val.jsonl"], 0))
    assert items == list(rte_items([tmp_path / "dev.tsv"], 0))
    assert items[0].prompt == (
        "Passage: Ann met Bo. They talked.\nQuestion: From this passage can one reasonably "
        "conclude that Ann met Bo?\nAnswer:"
    )
    assert [item.choices for item in items] == [(" Yes", " No")] * 2
    said = {"logprobs": [-1.0, -2.0], "num_tokens": [1, 1]}
    scores = choice_scores([said | {"facts": item.facts} for item in items], None)
    assert [row["accuracy"] for row in scores] == [1.0, 0.0]
    (tmp_path / "val.jsonl").write_text(json.dumps(RTE_ROWS[0] | {"label": "neutral"}) + "\n")
    with pytest.raises(DataError, match="line 1: label is 'neutral': entailment or not_entail"):
        list(rte_items([tmp_path / "val.jsonl"], 0))


def test_sentiment_has_its_word_as_the_answer(tmp_path):
    place = tmp_path / "SST-2"  # as the archive is unpacked
    place.mkdir()
    path = place / "dev.tsv"
    path.write_text('sentence\tlabel\na "charming " film . \t1\nslow \t0\nfine\t1\n')
    task = next(task for task in SENTENCE_TASKS if task.name == "sst")
    items = chosen(task, locate(task, tmp_path), None, 1)
    assert len(items) == 2 and {item.variant for item in items} == {"1 shots"}
    plain = list(sst_items([path], 0))
    assert plain[0].prompt == (
        "For each snippet of text, label the sentiment of the text as positive or negative.\n\n"
        'Text: a "charming " film .\nLabel:'
    )
    assert [item.choices[item.facts["label"]] for item in plain] == [
        " positive",
        " negative",
        " positive",
    ]
    (shown,) = {item.prompt.split("Text: ")[1] for item in items}
    assert shown.rstrip() in (
        'a "charming " film .\nLabel: positive',
        "slow\nLabel: negative",
        "fine\nLabel: positive",
    )
    path.write_text("sentence\tlabel\ngood\tyes\n")
    with pytest.raises(DataError, match=r"line 2: label is 'yes': 0 \(negative\) or 1"):
        list(sst_items([path], 0))


ASKED = (
    "Final Exam with Answer Key\nInstructions: Please carefully read the following passages. For "
    "each passage, you must identify which noun the pronoun marked in bold refers to.\n\n"
    "Passage: The cup fell on the mat because *it* was wet.\nQuestion: In the passage above, what "
    'does the pronoun "*it*" refer to?\nAnswer:'
)
TEXT = "The cup fell on the mat because it was wet."
COLLECTION = """<?xml version="1.0" encoding="ISO-8859-1"?>
<collection>
<schema>
<text><txt1>
The cup fell on the mat because </txt1><pron> it  </pron><txt2> was wet.
</txt2></text>
<answers><answer>the cup </answer><answer>The mat</answer></answers>
<correctAnswer> B. </correctAnswer>
</schema>
<schema>
<text><txt1>Ann saw Bo, and</txt1><pron>she</pron><txt2>, too, left.</txt2></text>
<answers><answer>Bo</answer><answer>Ann</answer></answers>
<correctAnswer>A</correctAnswer>
</schema>
</collection>
"""


def superglue(idx, noun, label, pronoun="it", index=7):
    target = {"span1_index": 0, "span1_text": noun, "span2_index": index, "span2_text": pronoun}
    return {"text": TEXT, "target": target, "idx": idx, "label": label}


def test_pronouns_in_both_published_forms(tmp_path):
    path = tmp_path / "val.jsonl"
    rows = [superglue(0, "The cup", False), superglue(1, "the mat", True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(wsc_items([path], 0))
    assert [item.prompt for item in items] == [ASKED] * 2
    assert items[0].cluster == items[1].cluster
    assert [item.facts["candidates"] for item in items] == [{"The cup": False}, {"the mat": True}]
    path.write_text(json.dumps(superglue(0, "The cup", False, index=6)))
    with pytest.raises(DataError, match="line 1: word 6 is 'because', the pronoun is 'it'"):
        list(wsc_items([path], 0))

    path = tmp_path / "WSCollection.xml"
    path.write_text(COLLECTION)
    both = list(wsc_items([path], 0))
    assert both[0].prompt == ASKED
    assert both[0].facts["candidates"] == {"the cup": False, "The mat": True}
    assert "Passage: Ann saw Bo, and *she*, too, left.\n" in both[1].prompt
    for wrong in ("", ".", "AB", "C"):
        path.write_text(COLLECTION.replace("> B. <", f">{wrong}<"))
        with pytest.raises(DataError, match="schema 1: two answers, A or B, are needed"):
            list(wsc_items([path], 0))
    path.write_text(COLLECTION.replace("<answer>Ann</answer>", "<answer></answer>"))
    with pytest.raises(DataError, match="schema 2: two answers"):
        list(wsc_items([path], 0))
    path.write_text(COLLECTION.replace("<collection>", "<collection", 1))
    with pytest.raises(DataError, match=r"WSCollection.xml: not XML"):
        list(wsc_items([path], 0))


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ([-1.0, -3.0, -4.0], [1, 0, 0]),
        ([-2.0, -4.0, -9.0], [1 / 2, 1 / 2, 0]),  # -2, -2 and -3 a token
        ([-2.0, -4.0, -6.0], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_of_choices_that_are_as_likely_one_counts_as_drawn(logprobs, expected):
    rows = [
        {"logprobs": logprobs, "num_tokens": [1, 2, 3], "facts": {"label": label}}
        for label in range(3)
    ]
    scores = [row["accuracy"] for row in choice_scores(rows, None)]
    assert scores == pytest.approx(expected)


def test_a_candidate_without_a_word_is_not_named():
    facts = {"candidates": {"the": False, "the mat": True}}
    assert wsc_scores([{"response": "the mat", "facts": facts}], None) == [{"accuracy": 1.0}]


def test_a_wrong_candidate_is_no_example(tmp_path):
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps(superglue(0, "The cup", False)) + "\n")
    with pytest.raises(DataError, match="1 shots are asked for; the data has texts for 0"):
        list(wsc_items([path], 1))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("The mat.", 1.0),  # names the right one alone
        ("mat", 1.0),  # part of it
        ("it was the mat that fell", 1.0),
        ("The cup", 0.0),
        ("the cup and the mat", 0.5),  # both: the wrong one is told wrong
        ("a dog", 0.5),  # neither
        ("", 0.5),  # nothing names nothing
    ],
)
def test_an_answer_names_a_candidate_where_one_contains_the_other(said, expected):
    facts = {"candidates": {"the cup": False, "The mat": True}}
    assert wsc_scores([{"response": said, "facts": facts}], None) == [{"accuracy": expected}]
