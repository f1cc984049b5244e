"""Scores of a text classifier and of a judge against the library's own passes, text by text."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from heedful.errors import ModelError
from heedful.evaluation.classifier import load_classifier, load_judge
from heedful.training.checkpoint import publish


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_a_classifier_gives_the_probability_of_its_toxic_label(
    tiny_config, tokenizer, tmp_path, problem
):
    torch.manual_seed(0)
    config = tiny_config(num_labels=3, problem_type=problem)
    config.id2label = {0: "neutral", 1: "offensive", 2: "toxic"}
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["w5 w6 w7", "w8", "w9 w10 w11 w12 w13 w14"]
    expected = []
    for text in texts:
        with torch.no_grad():
            z = model(torch.tensor([tokenizer.encode(text)])).logits[0]
        shares = z.sigmoid() if problem.startswith("multi") else z.softmax(0)
        expected.append(shares[2].item())
    assert load_classifier(str(tmp_path))(texts) == pytest.approx(expected, abs=1e-5)


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="no directory of a model"):
        load_classifier(str(tmp_path))


def test_a_judge_says_how_likely_yes_is(tiny_model, tokenizer, tmp_path):
    publish(tiny_model(), tokenizer, tmp_path / "model", {})
    (tmp_path / "model" / "heedful_template.json").unlink(missing_ok=True)
    # the tokenizer of the tests has neither word: both would be w2
    yes, no = 40, 41
    words = tokenizer.backend_tokenizer
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(words.to_str().replace('"w40"', '"yes"').replace('"w41"', '"no"'))
    where = (torch.float32, torch.device("cpu"))
    judge = load_judge(str(tmp_path / "model"), "w7", where, 1000)
    found = judge([("w9", "w10 w11"), ("w12", "w13")])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    unknown = 2  # Q:, A: and the question with its colon
    for tokens, value in zip(
        [[unknown, 9, unknown, 10, 11, unknown], [unknown, 12, unknown, 13, unknown]],
        found,
        strict=True,
    ):
        with torch.no_grad():
            z = model(torch.tensor([tokens])).logits[0, -1]
        assert value == pytest.approx(z[[yes, no]].softmax(0)[0].item(), abs=1e-5)
