"""Which model a directory holds, by its config.json: what is taken, and what a refusal says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heedful.errors import ModelError
from heedful.models.kind import require_language_model, require_scalar_model


def directory(path: Path, **config: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return path


ONE_LABEL = {"id2label": {"0": "LABEL_0"}}


@pytest.mark.parametrize(
    "name",
    ["LlamaForCausalLM", "GPT2LMHeadModel", "GPT2Model", "Gemma3ForConditionalGeneration", None],
)
def test_a_language_model_is_taken(tmp_path, name):
    config = {} if name is None else {"architectures": [name]}
    require_language_model(directory(tmp_path, **config))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LlamaForSequenceClassification", "is a reward model: config.json names LlamaForSeq"),
        ("BertForMaskedLM", "is no language model: config.json names BertForMaskedLM"),
    ],
)
def test_what_is_no_language_model_is_refused_with_its_class(tmp_path, name, says):
    with pytest.raises(ModelError, match=f"{tmp_path} {says}.*needed is a language model"):
        require_language_model(directory(tmp_path, architectures=[name]))


def test_a_reward_model_is_taken(tmp_path):
    names = ["GPT2ForSequenceClassification"]
    require_scalar_model(directory(tmp_path, architectures=names, **ONE_LABEL))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "names LlamaForCausalLM, a language model; need"),
        ({}, "names no class; needed"),
        ({"architectures": ["XForSequenceClassification"]}, "XForSequ.* with 2 labels; needed is"),
        (
            {"architectures": ["XForSequenceClassification"], "id2label": dict.fromkeys("012")},
            "with 3 labels",
        ),
    ],
)
def test_what_is_no_reward_model_is_refused_with_its_class(tmp_path, config, says):
    with pytest.raises(ModelError, match=f"is not a reward model: .*{says}"):
        require_scalar_model(directory(tmp_path, **config))


@pytest.mark.parametrize("require", [require_language_model, require_scalar_model])
def test_what_is_no_model_says_what_is_there(tmp_path, require):
    with pytest.raises(ModelError, match="none does not exist: give"):
        require(tmp_path / "none")
    with pytest.raises(ModelError, match=r"is not a model: no config.json in it \(it holds noth"):
        require(tmp_path)
    for name in ("b.txt", "a.txt", "c", "d", "e", "f", "g"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"\(it holds a.txt, b.txt, c, d, e and 2 more\)"):
        require(tmp_path)
    with pytest.raises(ModelError, match=r"a\.txt is not a directory: give"):
        require(tmp_path / "a.txt")
    for text in ("{broken", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config\.json cannot be read"):
            require(tmp_path)


def test_a_run_directory_leads_to_its_model(tmp_path):
    directory(tmp_path / "model")
    with pytest.raises(ModelError, match=rf"it holds model; did you mean {tmp_path}/model\?"):
        require_language_model(tmp_path)
