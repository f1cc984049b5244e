"""Items of the NLP data sets as published; BLEU and ROUGE-L beside the packages that count them."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from heedful.errors import DataError
from heedful.evaluation.items import chosen, locate
from heedful.evaluation.nlp import (
    NLP_TASKS,
    cnn_dm_items,
    fr_en_items,
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


SGM = """<srcset setid="newsdiscusstest2015" srclang="any">
<doc sysid="ref" docid="a" genre="newsdiscuss" origlang="fr">
<p>
<seg id="1">%s</seg>
<seg id="2">%s</seg>
</p>
</doc>
</srcset>
"""


def test_translations_in_the_form_of_wmt(tmp_path):
    place = tmp_path / "wmt15"
    place.mkdir()
    french = place / "newsdiscusstest2015-fren-src.fr.sgm"
    english = place / "newsdiscusstest2015-fren-ref.en.sgm"
    french.write_text(SGM % ("Les r\u00e8gles &amp; les lois.", "Il dit\n&quot;oui&quot;."))
    english.write_text(SGM % ("Rules &amp; laws.", "He says &quot;yes&quot;."))
    task = next(task for task in NLP_TASKS if task.name == "wmt15_fr_en")
    items = chosen(task, locate(task, tmp_path), None, 0)
    assert [item.prompt.rpartition("\n\n")[2] for item in items] == [
        "French: Les r\u00e8gles & les lois.\nEnglish:",
        'French: Il dit "oui".\nEnglish:',
    ]
    assert [item.facts["reference"] for item in items] == ["Rules & laws.", 'He says "yes".']
    french.unlink()
    english.unlink()
    # as sacrebleu writes the same test set: a line may hold a separator of Unicode
    (place / "wmt15.fr-en.src").write_text("Un\u2028chat.\r\nDeux chats.\r\n")
    (place / "wmt15.fr-en.ref").write_text("A cat.\nTwo cats.\n")
    items = chosen(task, locate(task, tmp_path), None, 0)
    assert [item.prompt.count("French: ") for item in items] == [1, 1]
    assert items[0].prompt.endswith("French: Un\u2028chat.\nEnglish:")


def test_a_row_without_its_field_is_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"article": "x", "highlights": "y"}\n{"article": "x"}\n')
    with pytest.raises(DataError, match=r"test.jsonl, line 2: the field 'highlights' is missing"):
        list(cnn_dm_items([path], 0))
