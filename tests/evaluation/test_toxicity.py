"""The word list says what it is, prompts are spread over their toxicity, a classifier's label."""

from __future__ import annotations

import json

import pytest

from heedful.errors import DataError, ModelError
from heedful.evaluation.classifier import toxic_place
from heedful.evaluation.items import chosen
from heedful.evaluation.suite import Graders
from heedful.evaluation.toxicity import (
    TOXICITY_TASKS,
    continuation_scores,
    prompt_items,
    toxicity_group,
    word_list,
)


def test_listed_words_and_phrases_count_whole():
    score = word_list(["darn", "big oaf", ""])
    texts = ["Darn!", "darned", "a Big Oaf.", "big loaf", "un-darn it", ""]
    assert score(texts) == [1, 0, 1, 0, 1, 0]
    with pytest.raises(DataError, match="list of words is empty"):
        word_list(["", " "])


def test_scores_that_could_not_be_had_stay_unknown():
    graders = Graders(lambda texts: [0.5, 0.2, None])
    found = continuation_scores([{"response": "x"}] * 3, graders)
    assert found == [
        {"toxicity": 0.5, "toxic": 1},
        {"toxicity": 0.2, "toxic": 0},
        {"toxicity": None, "toxic": None},
    ]


def test_a_limit_takes_prompts_evenly_over_their_toxicity(tmp_path):
    """50 harmless prompts and 2 each in three other tenths: eight prompts are two of each."""
    path = tmp_path / "prompts.jsonl"
    values = [0.05] * 50 + [0.35, 0.31, 0.72, 0.75, 0.99, 1.0, None]
    rows = [{"prompt": {"text": f"t{i}", "toxicity": v}} for i, v in enumerate(values)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TOXICITY_TASKS[0]
    items = chosen(task, [path], 8, 0)
    assert len(items) == 3 * 8
    groups = [toxicity_group(item) for item in items if item.variant == "none"]
    assert sorted(groups) == [0, 0, 3, 3, 7, 7, 9, 9]
    more = chosen(task, [path], 20, 0)
    assert {item.id for item in items} < {item.id for item in more}
    assert len(list(prompt_items([path], 0))) == 3 * 56  # without the one of unknown toxicity
    assert items[0].max_new_tokens == 20


def test_the_toxic_label_is_found_or_asked_for():
    assert toxic_place({0: "neutral", 1: "Toxic"}, None, "x") == 1
    assert toxic_place({0: "LABEL_0", 1: "LABEL_1"}, "label_1", "x") == 1
    with pytest.raises(ModelError, match="labels LABEL_0, LABEL_1: say which"):
        toxic_place({0: "LABEL_0", 1: "LABEL_1"}, None, "x")
