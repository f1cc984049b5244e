"""The command line: exit codes, help, and what it says to bad input, without a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heedful.cli import main
from heedful.commands.table import COMMANDS
from heedful.errors import ConfigError

DEMONSTRATION = {"prompt": "w2 w3", "response": "w4 w5", "split": "train"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model, tokenizer) -> Path:
    """A language model directory, as heed pretrain publishes it."""
    return publish(tmp_path_factory.mktemp("lm"), tiny_model(), tokenizer)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory, model, tokenizer) -> Path:
    from heedful.models.scalar_model import scalar_model_from

    return publish(tmp_path_factory.mktemp("rm"), scalar_model_from(model, 0), tokenizer)


def publish(directory: Path, model: Any, tokenizer: Any) -> Path:
    from heedful.training import checkpoint

    return checkpoint.publish(model, tokenizer, directory / "model", {})


def write_jsonl(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def sft(tmp_path: Path, model: Path, demonstrations: Path | str, *more: str) -> list[str]:
    """The words of a tiny SFT run."""
    return [
        "sft",
        f"--run_dir={tmp_path / 'run'}",
        f"--base={model}",
        f'--data.demonstrations=["{demonstrations}"]',
        "--optim.lr=1e-3",
        "--optim.batch_size=2",
        "--epochs=1",
        "--compute.dtype=float32",
        *more,
    ]


def sampling(tmp_path: Path, model: Path) -> list[str]:
    """The words of a tiny run of heed sample."""
    prompts = write_jsonl(tmp_path / "p.jsonl", {"text": "w2 w3", "split": "train"})
    return [
        "sample",
        f"--run_dir={tmp_path / 'run'}",
        f'--prompts=["{prompts}"]',
        f'--models=[{{ name = "a", path = "{model}" }}]',
        "--compute.dtype=float32",
        "--sampling.max_new_tokens=4",
    ]


# Exit codes and help


@pytest.mark.parametrize("command", ["demo", "run", "prompts", "doctor", *COMMANDS])
def test_every_command_has_help_worth_reading(command: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.split()) > 12


def test_help_names_the_heading_of_the_settings_and_those_that_are_required(capsys):
    with pytest.raises(SystemExit):
        main(["sft", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    page = (Path(__file__).parents[1] / "docs" / "config.md").read_text(encoding="utf-8")
    assert "under 'heed sft'" in said and "\n## heed sft\n" in page
    for line in (
        "--run_dir=DIR Directory to write",
        "--base=DIR Directory of the model to start from",
        "--optim.lr=NUMBER Peak learning rate",
        "--optim.batch_size=NUMBER Examples",
        "data.demonstrations: step 1 imitates them: give --data.demonstrations=FILE",
    ):
        assert line in said


def test_a_recipe_is_found_by_its_name_from_any_directory(tmp_path, monkeypatch, heed):
    monkeypatch.chdir(tmp_path)
    for name in ("miniature", "recipes/miniature.toml"):
        assert heed("run", name, "--dry-run") == (0, ""), name
    assert "miniature.toml does not" in heed("run", "other/miniature.toml", "--dry-run")[1]
    code, said = heed("run", "minature")
    assert code == 2
    assert "minature does not exist: give the path of a TOML file, or the name of a recipe" in said
    assert "(english, instructgpt-1.3b, instructgpt-175b, instructgpt-6b, instructions, " in said


def test_a_missing_file_of_a_recipe_is_named_once_and_where_it_comes_from(tmp_path, heed):
    code, said = heed("run", "english", "--data", tmp_path / "no", "--dry-run")
    assert code == 1
    first, *found, last = said.splitlines()
    assert first == f"error: {len(found)} settings cannot be used:"
    files = [line.partition(f"{tmp_path}/no/")[2].split()[0] for line in found]
    assert "prompts" in {file.split("/")[0] for file in files}
    assert len(files) == len(set(files))
    assert last.strip().startswith("docs/english-data.md says which files --data holds")


def test_the_demo_has_a_dry_run(tmp_path, capsys):
    assert main(["demo", "--run-dir", str(tmp_path / "d"), "--dry-run"]) == 0
    assert f"miniature.toml -> {tmp_path}/d (" in capsys.readouterr().out
    assert not (tmp_path / "d").exists()


def test_unexpected_arguments_are_told_what_is_allowed(heed):
    code, said = heed("demo", "--sed", "3")
    assert code == 2
    assert "unexpected argument '--sed': heed demo takes --run-dir, --seed, --jobs" in said
    assert "heed doctor takes no arguments" in heed("doctor", "now")[1]
    assert heed("run", "instructgpt-1.3b", "--base=no", "--data=no", "--dry-run")[0] == 1
    code, said = heed("prompts", "stats", "p.jsonl", "--cap=3")
    assert code == 2
    assert "unexpected argument '--cap=3': heed prompts takes stats FILES" in said


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert not [name for name in ("demo", "run", "prompts", "doctor", *COMMANDS) if name not in out]


def test_a_run_that_works_ends_with_0_and_a_model(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    code, _ = heed(*sft(tmp_path, model, rows))
    assert code == 0
    lineage = json.loads((tmp_path / "run" / "model" / "heedful.json").read_text(encoding="utf-8"))
    assert lineage["step"] == "sft"


@pytest.mark.parametrize("words", [[], ["sftt"], ["prompts"], ["run"], ["doctor", "now"]])
def test_bad_usage_ends_with_2(words: list[str], heed):
    code, said = heed(*words)
    assert code == 2
    assert said


def test_a_dry_run_prints_settings_and_numbers_and_trains_nothing(tmp_path, model, capsys):
    rows = write_jsonl(tmp_path / "d.jsonl", *[DEMONSTRATION] * 7)
    assert main([*sft(tmp_path, model, rows), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "epochs = 1.0" in lines
    # 7 examples in batches of 2
    assert any(line.split()[:4] == ["updates", "in", "all", "4"] for line in lines)
    assert not (tmp_path / "run").exists()


# Settings


def test_a_missing_settings_file(heed):
    code, said = heed("sft", "nowhere.toml")
    assert code == 2
    assert "nowhere.toml does not exist" in said


def test_broken_toml_is_named_with_its_line(tmp_path, heed):
    (tmp_path / "a.toml").write_text('run_dir = "x"\nbase = \n', encoding="utf-8")
    code, said = heed("sft", tmp_path / "a.toml")
    assert code == 2
    assert "a.toml is not valid TOML" in said
    assert "line 2" in said


def test_an_unknown_key_names_the_nearest_known_one(tmp_path, heed):
    code, said = heed(*sft(tmp_path, tmp_path, "d.jsonl", "--optim.batchsize=3"))
    assert code == 2
    assert "unknown key 'optim.batchsize': did you mean 'optim.batch_size'?" in said


def test_a_setting_out_of_range_says_what_it_may_be(tmp_path, heed):
    code, said = heed(*sft(tmp_path, tmp_path, "d.jsonl", "--pretraining_mix=2"))
    assert code == 2
    assert "pretraining_mix = 2: " in said
    assert "less than 1" in said


def test_what_is_missing_is_named_with_what_to_write(tmp_path, heed):
    code, said = heed("sft", "--run_dir=a", "--base=b", "--optim.batch_size=2")
    assert code == 2
    assert "missing key 'optim.lr' (Peak learning rate): write --optim.lr=NUMBER" in said


@pytest.mark.parametrize("word", ["--epochs", "-x", "two.toml"])
def test_an_argument_that_is_no_setting(word: str, tmp_path, heed):
    code, said = heed("sft", "one.toml", word)
    assert code == 2
    assert f"unexpected argument '{word}'" in said


SHORT = ["--max_prompt_tokens=8", "--sampling.max_new_tokens=8"]


def test_a_setting_with_spaces_is_not_taken_for_the_file(tmp_path, tiny_model, tokenizer, heed):
    model = publish(tmp_path, tiny_model(), tokenizer)
    models = f'--models=[{{ name = "a", path = "{model}" }}]'
    prompts = f"--prompts={write_jsonl(tmp_path / 'p.jsonl', {'text': 'w2'})}"
    code, said = heed("sample", models, prompts, f"--run_dir={tmp_path}", *SHORT, "--dry-run")
    assert (code, said) == (0, "")


def test_hyphens_underscores_and_spaces_are_all_understood(tmp_path, model, capsys):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION)
    first = [f"--run-dir={tmp_path / 'a-b'}", "--optim.batch-size=2", "--dry_run"]
    second = ["--run_dir", str(tmp_path / "a-b"), "--optim.batch_size", "2", "--dry-run"]
    found = []
    for words in (first, second):
        shared = [f"--base={model}", f"--data.demonstrations={rows}", "--optim.lr=0.1"]
        assert main(["sft", *words, *shared]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert f'run_dir = "{tmp_path}/a-b"' in found[0]
    assert main(["run", "miniature", "--run_dir", str(tmp_path / "c"), "--dry_run"]) == 0
    assert str(tmp_path / "c") in capsys.readouterr().out


# Data


def test_a_missing_data_file(tmp_path, model, heed):
    code, said = heed(*sft(tmp_path, model, tmp_path / "no.jsonl"))
    assert code == 1
    assert "no.jsonl does not exist" in said


def test_an_empty_data_file(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "empty.jsonl")
    code, said = heed(*sft(tmp_path, model, rows))
    assert code == 1
    assert "empty.jsonl" in said
    assert "an empty file" in said


def test_broken_json_is_named_by_its_line(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, '{"prompt": "w2", ')
    code, said = heed(*sft(tmp_path, model, rows))
    assert code == 1
    assert "d.jsonl, line 2" in said


def test_ranks_of_the_wrong_length(tmp_path, model, heed):
    row = {
        "prompt": "w2",
        "completions": [{"text": "w3"}, {"text": "w4"}],
        "ranks": [1, 2, 3],
        "split": "train",
    }
    rows = write_jsonl(tmp_path / "c.jsonl", row)
    code, said = heed(
        "reward",
        f"--run_dir={tmp_path / 'run'}",
        f"--base={model}",
        f'--data.comparisons=["{rows}"]',
        "--optim.lr=1e-3",
        "--optim.batch_size=2",
    )
    assert code == 1
    assert "c.jsonl, line 1: field 'ranks': found 3 ranks for 2 completions" in said


def test_a_prompt_that_is_too_long_says_how_long_it_is(tmp_path, model, heed):
    long = DEMONSTRATION | {"prompt": " ".join(["w2"] * 70)}
    rows = write_jsonl(tmp_path / "d.jsonl", long)
    settings = ("--data.max_prompt_tokens=32", "--data.long_prompts=error")
    code, said = heed(*sft(tmp_path, model, rows, *settings))
    assert code == 1
    assert "has 70 tokens, the limit is 32" in said


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prompt_longer_than_the_context_of_the_model(
    tmp_path, tiny_model, tokenizer, heed, architecture: str
):
    directory = publish(tmp_path / "lm", tiny_model(architecture), tokenizer)  # context 64
    long = DEMONSTRATION | {"prompt": " ".join(["w2"] * 70)}
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, long)
    code, said = heed(*sft(tmp_path, directory, rows))
    assert code == 1
    # 70 of the prompt, 2 of the response, EOS
    assert "have 73 tokens" in said
    assert "is 64: lower data.max_prompt_tokens" in said


def test_prompts_that_are_left_out_are_counted(tmp_path, model, heed):
    long = DEMONSTRATION | {"prompt": " ".join(["w2"] * 40)}
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION, long)
    code, said = heed(*sft(tmp_path, model, rows, "--data.max_prompt_tokens=32"))
    assert code == 0
    assert "train: 1 prompts of more than 32 tokens left out; 2 rows in all" in said


def test_rows_that_are_skipped_are_counted_and_their_file_is_named(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, '{"prompt": "w2", ', DEMONSTRATION)
    code, said = heed(*sft(tmp_path, model, rows, "--data.skip_bad_rows=true"))
    assert code == 0
    assert (
        f"1 row of data left out, with the reasons in {tmp_path / 'run' / 'bad_rows.jsonl'}" in said
    )
    assert '"line": 2' in (tmp_path / "run" / "bad_rows.jsonl").read_text(encoding="utf-8")


# Models


def test_a_directory_that_is_not_a_model(tmp_path, tokenizer, heed):
    tokenizer.save_pretrained(tmp_path / "not")
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION)
    code, said = heed(*sft(tmp_path, tmp_path / "not", rows))
    assert code == 1
    assert f"base: {tmp_path / 'not'} is not a model: no config.json in it (it holds " in said
    code, said = heed(*sft(tmp_path, tmp_path, rows))
    assert (code, f"base: {tmp_path} is not a model" in said) == (1, True)


def test_a_dry_run_lists_all_that_is_wrong(tmp_path, reward_model, heed):
    code, said = heed(*sft(tmp_path, reward_model, tmp_path / "no.jsonl"), "--dry-run")
    assert code == 1
    assert said.startswith("error: 2 settings cannot be used:\n")
    assert f"data.demonstrations: {tmp_path}/no.jsonl does not exist" in said
    assert f"base: {reward_model} is a reward model: config.json names LlamaForSeq" in said
    assert not (tmp_path / "run").exists()
    rows = write_jsonl(tmp_path / "d.jsonl", '{"prompt": "w2"')
    code, said = heed(*sft(tmp_path, tmp_path / "none", rows), "--dry-run")
    assert code == 1
    assert "base: " in said and "d.jsonl, line 1" in said


def ppo(tmp_path: Path, policy: Path, reward_model: Path) -> list[str]:
    prompts = write_jsonl(tmp_path / "p.jsonl", {"text": "w2 w3", "split": "train"})
    return [
        "ppo",
        f"--run_dir={tmp_path / 'run'}",
        f"--policy={policy}",
        f"--reward_model={reward_model}",
        f'--data.prompts=["{prompts}"]',
        "--compute.dtype=float32",
    ]


def test_a_language_model_is_no_reward_model(tmp_path, model, heed):
    code, said = heed(*ppo(tmp_path, model, model))
    assert code == 1
    assert f"reward_model: {model} is not a reward model: config.json names LlamaFor" in said


def test_a_reward_model_is_no_policy_no_base_and_answers_no_prompts(
    tmp_path, model, reward_model, heed
):
    rows = write_jsonl(tmp_path / "c.jsonl", {"prompt": "w2", "chosen": "w3", "rejected": "w4"})
    reward = ["reward", f"--run_dir={tmp_path / 'run'}", f"--base={reward_model}"]
    reward += [f"--data.comparisons={rows}", "--optim.lr=1e-3", "--optim.batch_size=2"]
    for key, words in {
        "policy": ppo(tmp_path, reward_model, reward_model),
        "base": reward,
        "models.0.path": sampling(tmp_path, reward_model),
    }.items():
        code, said = heed(*words)
        assert code == 1
        assert f"{key}: {reward_model} is a reward model: config.json names LlamaForSequ" in said
        assert "needed is a language model" in said


def test_policy_and_reward_model_of_different_tokenizers(tmp_path, model, reward_model, heed):
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(str(reward_model))
    other.add_tokens(["another"])
    strange = tmp_path / "strange"
    strange.mkdir()
    for file in reward_model.iterdir():
        (strange / file.name).write_bytes(file.read_bytes())
    other.save_pretrained(strange)
    code, said = heed(*ppo(tmp_path, model, strange))
    assert code == 1
    assert "have different tokenizers (100 and 101 tokens" in said


# What goes wrong


@pytest.mark.parametrize("words", [["--debug", "sft", "no.toml"], ["sft", "no.toml", "--debug"]])
def test_debug_shows_the_traceback(words: list[str]):
    with pytest.raises(ConfigError):
        main(words)


def test_what_nobody_foresaw_is_one_line_too(monkeypatch, heed):
    import heedful.commands.doctor

    def fail() -> int:
        raise KeyError("odd")

    monkeypatch.setattr(heedful.commands.doctor, "run_doctor", fail)
    code, said = heed("doctor")
    assert code == 1
    assert "KeyError" in said
    assert "--debug" in said


def test_memory_that_ran_out_says_what_takes_less(monkeypatch, heed):
    import torch

    def fail(*_: Any) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("heedful.commands.doctor.run_doctor", fail)
    code, said = heed("doctor")
    assert code == 1
    assert "memory ran out (CUDA out of memory)" in said
    assert "compute.tokens_per_microbatch" in said and "--resume" in said
    assert "not foreseen" not in said
