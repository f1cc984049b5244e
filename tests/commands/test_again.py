"""Command lines that results are written with: read again, they are the same settings."""

import json
import shlex

import pytest

from heedful.cli import _settings, _spelt
from heedful.commands.again import command_of
from heedful.commands.sizes import win_rates_by_size
from heedful.config import EvalConfig, PreferenceConfig, load_config
from heedful.errors import DataError
from heedful.evaluation.preference import win_rate
from heedful.records import Judgement


@pytest.mark.parametrize(
    "name, config",
    [
        ("eval preference", PreferenceConfig(judgements=("a b.jsonl", "c.jsonl"), num_samples=50)),
        ("eval preference", PreferenceConfig(models={"PPO-ptx": "x/model", "SFT": "y"})),
        ("eval preference", PreferenceConfig(distributions={"GPT 3": "it's.jsonl"})),
        ("eval", EvalConfig(run_dir="r", data="d", models={"base": "m"}, shots=2)),
    ],
)
def test_the_words_give_the_settings_again(name, config):
    words = shlex.split(command_of(name, config))
    assert words[: 1 + len(name.split())] == ["heed", *name.split()]
    rest = _spelt(words[1:])[len(name.split()) :]
    assert load_config(type(config), *_settings(None, rest)) == config


def test_settings_at_their_defaults_are_not_said():
    assert command_of("eval preference", PreferenceConfig()) == "heed eval preference"


def test_win_rates_over_size(tmp_path):
    judged = [Judgement(f"p{n}", ("PPO", "SFT"), (1, 2), "lea") for n in range(3)]
    judged.append(Judgement("p3", ("PPO", "SFT"), (1, 1), "lea"))
    for name, lineage in (
        ("SFT", {"step": "sft", "config": {"pretraining_mix": 0.0}, "parameters": 1000}),
        ("PPO", {"step": "ppo", "config": {"ppo": {"ptx_coef": 0.0}}, "parameters": 1500}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "heedful.json").write_text(json.dumps(lineage))
    paths = {name: str(tmp_path / name) for name in ("SFT", "PPO")}
    sft, ppo = win_rates_by_size(paths, [win_rate(judged, "PPO", "SFT")], "SFT")
    assert (sft["method"], sft["parameters"], sft["value"], sft["low"]) == ("SFT", 1000, 0.5, None)
    assert (ppo["method"], ppo["parameters"], ppo["value"]) == ("PPO", 1500, 3.5 / 4)
    with pytest.raises(DataError, match=r"models\.base: .* has no heedful\.json"):
        win_rates_by_size({"base": str(tmp_path)}, [], "SFT")
