"""Rows as their tokens have them in a dry run, and limits that a model's context does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heedful.cli import main
from heedful.commands.lengths import context_problems
from heedful.commands.plan import derived_numbers
from heedful.config import PPOConfig, RewardConfig, SampleConfig, SFTConfig

CONTEXT = 8
OPTIM = {"lr": 1e-3, "batch_size": 2}
# 1, 3 and 6 tokens: the tokenizer of the tests takes a word for one
PROMPTS = ["w2", "w2 w3 w4", "w2 w3 w4 w5 w6 w7"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model, tokenizer) -> str:
    directory = tmp_path_factory.mktemp("model")
    tiny_model(max_position_embeddings=CONTEXT).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def write(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    lines = (json.dumps(row | {"split": "train"}) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return [str(path)]


@pytest.fixture
def data(tmp_path) -> dict[str, Any]:
    """A file of each kind; responses have 2 tokens, EOS included."""
    pair = {"completions": [{"text": "w5"}, {"text": "w6"}], "ranks": [1, 2]}
    demonstrations = [{"prompt": text, "response": "w5"} for text in PROMPTS]
    return {
        "demonstrations": write(tmp_path / "d.jsonl", demonstrations),
        "comparisons": write(tmp_path / "c.jsonl", [{"prompt": text} | pair for text in PROMPTS]),
        "prompts": write(tmp_path / "p.jsonl", [{"text": text} for text in PROMPTS]),
    }


def steps(model: str, data: dict[str, Any], max_prompt: int, max_new: int = 2) -> list[Any]:
    data = data | {"max_prompt_tokens": max_prompt, "max_response_tokens": max_new}
    values = {"run_dir": "x", "data": data}
    trained = values | {"base": model, "optim": OPTIM}
    ppo = {"policy": model, "reward_model": model, "sampling": {"max_new_tokens": max_new}}
    return [
        SFTConfig.model_validate(trained),
        RewardConfig.model_validate(trained),
        PPOConfig.model_validate(values | ppo | {"ppo": {"ptx_coef": 0}}),
    ]


def test_rows_are_counted_as_a_run_keeps_them(model, data, capsys):
    for config in steps(model, data, 3):
        assert " 2 " in derived_numbers(config).splitlines()[0]
        assert "train: 1 prompts of more than 3 tokens left out" in capsys.readouterr().err
        # without the tokenizer the table says what its count is
        known = {"base": "no/model"} if hasattr(config, "base") else {"policy": "no/model"}
        row = derived_numbers(config.model_copy(update=known)).splitlines()[0]
        assert " 3 " in row and "tokens are not counted: prompts over 3 will be left out" in row


def test_where_all_prompts_are_too_long_the_limit_is_named(model, data):
    long = {kind: [path] for kind, (path,) in data.items()}
    for path in (Path(paths[0]) for paths in long.values()):
        path.write_text(path.read_text().replace('"w2', '"w9 w2'), encoding="utf-8")
    for config, name in zip(steps(model, long, 1), ("d", "c", "p"), strict=True):
        wrong = rf"{name}.jsonl: all 3 rows of the train split have prompts of more than 1 tokens"
        with pytest.raises(ValueError, match=wrong + r".* raise data.max_prompt_tokens"):
            derived_numbers(config)


def test_limits_over_the_context_are_a_problem_where_a_row_reaches_it(model, data):
    for config in steps(model, data, 6):  # 6 + 2 tokens
        assert context_problems(config) == []
    for config in steps(model, data, 100, max_new=3)[:2]:  # more is allowed than is there
        assert context_problems(config) == []
        (row,) = (line for line in derived_numbers(config).splitlines() if "longest" in line)
        assert "103" in row and f"the context of {model} is 8" in row
    policy, reward_model = context_problems(steps(model, data, 6, max_new=3)[2])
    assert (
        policy
        == reward_model
        == (
            f"the longest prompt and response have 9 tokens, the context of {model} is 8: lower "
            "data.max_prompt_tokens and sampling.max_new_tokens to 8 together"
        )
    )


def test_a_response_as_long_as_the_context_fits_no_prompt(model, data):
    ppo = steps(model, {}, 384, max_new=CONTEXT)[2]
    made = ppo.model_copy(update={"policy": "run/sft", "reward_model": "run/reward"})
    assert context_problems(made, count=False) == []
    like = {"run/sft": model, "run/reward": model}
    assert ["run/sft is 8" in problem for problem in context_problems(made, like)] == [True, False]
    models = [{"name": "m", "path": model}]
    sample = {"run_dir": "x", "prompts": data["prompts"], "models": models}
    assert len(context_problems(SampleConfig.model_validate(sample))) == 1  # 1,024 by default


def test_a_dry_run_fails_as_the_run_would(model, data, tmp_path, capsys):
    words = ["sft", f"--base={model}", f"--run_dir={tmp_path / 'run'}", "--optim.lr=1e-3"]
    words += ["--optim.batch_size=2", f"--data.demonstrations={data['demonstrations'][0]}"]
    assert main([*words, "--dry-run"]) == 0
    long = write(tmp_path / "long.jsonl", [{"prompt": PROMPTS[2], "response": "w2 w3"}])
    words[-1] = f"--data.demonstrations={long[0]}"
    capsys.readouterr()
    for more in (["--dry-run"], []):
        assert main([*words, *more]) == 1
        assert f"have 9 tokens, the context of {model} is 8" in capsys.readouterr().err


def test_a_recipe_is_refused_where_a_context_leaves_no_room_for_a_prompt(model, tmp_path, capsys):
    words = ["run", "instructgpt-1.3b", "--dry-run", f"--base={model}", f"--data={tmp_path}"]
    assert main([*words, f"--run-dir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    # every PPO stage starts from models that are still to be made from this base
    assert "have 1,025 tokens, the context of" in said and "is 8: lower" in said
