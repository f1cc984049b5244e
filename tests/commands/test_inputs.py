"""What is said of inputs before a command begins: all of it, by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heedful import config as configs
from heedful.commands.inputs import problems, require_inputs
from heedful.errors import DataError

OPTIM = {"lr": 1e-3, "batch_size": 2}


@pytest.fixture
def models(tmp_path) -> dict[str, str]:
    """Directories with no more than a configuration and a tokenizer: nothing is loaded."""
    found = {}
    for name in ("CausalLM", "SequenceClassification"):
        directory = tmp_path / name
        directory.mkdir()
        values = {"architectures": [f"LlamaFor{name}"], "id2label": {"0": "LABEL_0"}}
        (directory / "config.json").write_text(json.dumps(values))
        (directory / "tokenizer.json").touch()
        found[name] = str(directory)
    return {"lm": found["CausalLM"], "rm": found["SequenceClassification"]}


def make(name: str, **values: Any) -> Any:
    return getattr(configs, name).model_validate({"run_dir": "x", **values})


def touched(path: Path) -> str:
    path.touch()
    return str(path)


def test_inputs_that_are_what_they_should_be(tmp_path, models):
    prompts, text = touched(tmp_path / "p.jsonl"), touched(tmp_path / "t.txt")
    data = {"prompts": prompts, "text": text}
    config = make("PPOConfig", policy=models["lm"], reward_model=models["rm"], data=data)
    assert problems(config) == []
    require_inputs(config)
    glob = {"prompts": str(tmp_path / "*.jsonl"), "text": "hf:owner/name"}
    assert problems(config.model_copy(update={"data": configs.SnapshotData(**glob)})) == []


def test_all_that_is_wrong_is_said_with_its_key(tmp_path, models):
    touched(tmp_path / "t.odt")
    data = {"prompts": [str(tmp_path / "no.jsonl")], "text": [str(tmp_path / "t.odt")]}
    config = make("PPOConfig", policy=models["rm"], reward_model=models["lm"], data=data, gold="no")
    found = problems(config)
    assert [line.partition(": ")[0] for line in found] == [
        *("policy", "reward_model", "data.prompts", "data.text", "gold")
    ]
    assert "is a reward model" in found[0]
    assert "is not a reward model" in found[1]
    assert "no.jsonl does not exist" in found[2]
    assert "the format is not known by its name" in found[3]
    assert found[4] == "gold: no does not exist: give the path of a folder"
    with pytest.raises(DataError, match=r"^5 settings cannot be used:\n  policy: "):
        require_inputs(config)


@pytest.mark.parametrize(
    ("name", "values", "keys"),
    [
        ("TokenizerConfig", {}, ["data.train"]),
        ("SFTConfig", {"base": "lm", "optim": OPTIM}, ["data.demonstrations"]),
        (
            "SFTConfig",
            {"base": "lm", "optim": OPTIM, "pretraining_mix": 0.1, "select": "score"},
            ["data.demonstrations", "data.text", "reward_model", "data.prompts"],
        ),
        ("RewardConfig", {"base": "lm", "optim": OPTIM}, ["data.comparisons"]),
        (
            "PPOConfig",
            {"policy": "lm", "reward_model": "rm", "ppo": {"ptx_coef": 1}},
            ["data.prompts", "data.text"],
        ),
        ("SampleConfig", {"models": [], "prompts": []}, ["prompts", "models"]),
        ("MeasureConfig", {"models": [], "text": []}, ["models", "text"]),
        (
            "PPOConfig",
            {"policy": "lm", "reward_model": "rm", "eval": {"suites": ["bias"]}, "eval_every": 1},
            ["data.prompts", "eval.data"],
        ),
        (
            "PrefixConfig",
            {"model": "lm", "reward_model": "rm", "prompts": []},
            ["prompts", "prefixes"],
        ),
        ("JudgeConfig", {}, ["samples"]),
    ],
)
def test_what_a_command_cannot_do_without(models, name, values, keys):
    values = {key: models.get(value, value) if isinstance(value, str) else value
              for key, value in values.items()}  # fmt: skip
    found = problems(make(name, **values))
    assert [line.partition(" is empty: ")[0] for line in found] == keys


def test_models_in_a_list_are_named_by_their_place(tmp_path, models):
    several = [{"name": "a", "path": models["lm"]}, {"name": "b", "path": models["rm"]}]
    several[0]["prefix"] = str(tmp_path / "prefix.json")
    config = make("SampleConfig", models=several, prompts=touched(tmp_path / "p.jsonl"))
    first, second = problems(config)
    assert first == (
        f"models.0.prefix: {tmp_path}/prefix.json does not exist: give the path of a file"
    )
    assert second.startswith(f"models.1.path: {models['rm']} is a reward model: ")


def test_a_model_without_a_tokenizer_and_a_tokenizer_that_is_none(tmp_path, models):
    (Path(models["lm"]) / "tokenizer.json").unlink()
    config = make("RewardConfig", base=models["lm"], optim=OPTIM,
                  data={"comparisons": touched(tmp_path / "c.jsonl")})  # fmt: skip
    expected = "has no tokenizer: no tokenizer.json in it (it holds config.json)"
    assert problems(config) == [f"base: {models['lm']} {expected}"]
    text = touched(tmp_path / "t.txt")
    config = make("PretrainConfig", tokenizer=text, optim=OPTIM, data={"train": text})
    assert problems(config)[0].startswith(f"tokenizer: {text} is not a directory")


def test_a_file_where_a_folder_is_wanted(tmp_path):
    file = touched(tmp_path / "world")
    config = make("LabelConfig", world=file, completions=str(tmp_path), completions_valid=file)
    assert problems(config) == [
        f"world: {file} is not a folder: give the path of a folder",
        f"completions: {tmp_path} is not a file: give the path of a file",
    ]


def test_what_an_earlier_stage_makes_is_not_looked_for(models):
    config = make("RewardConfig", base="runs/a/model", optim=OPTIM, data={"comparisons": "runs/b"})
    assert problems(config, is_made=lambda path: path.startswith("runs/")) == []
    assert len(problems(config)) == 2
