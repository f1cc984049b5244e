"""heed eval on a tiny model: what it writes, keeps, scores again, refuses and leaves out."""

from __future__ import annotations

import json

import pytest

from heedful.cli import _eval_words, main
from heedful.commands.eval import forget, run_eval
from heedful.commands.harness import split_names
from heedful.config import EvalConfig, load_config
from heedful.errors import ConfigError, DataError
from heedful.training.checkpoint import publish

NUM_PAIRS, NUM_QUESTIONS = 7, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tokenizer):
    """Two models that read 64 tokens, seven pairs of sentences and five questions about texts."""
    path = tmp_path_factory.mktemp("eval")
    for name, seed in (("base", 0), ("tuned", 1)):
        publish(tiny_model(seed=seed), tokenizer, path / name / "model", {})
    pairs = ["id,sent_more,sent_less,stereo_antistereo,bias_type"]
    pairs += [f"{i},w{i + 5} w20 w21,w{i + 5} w30 w31,stereo,age" for i in range(NUM_PAIRS)]
    (path / "data" / "crows_pairs").mkdir(parents=True)
    (path / "data" / "crows_pairs" / "crows_pairs_anonymized.csv").write_text("\n".join(pairs))
    articles = [
        {
            "title": f"w{i}",
            "paragraphs": [
                {
                    "context": "w3 w4",
                    "qas": [{"id": f"q{i}", "question": "w5", "answers": [{"text": "w3"}]}],
                }
            ],
        }
        for i in range(NUM_QUESTIONS)
    ]
    (path / "data" / "squad").mkdir()
    (path / "data" / "squad" / "dev-v2.0.json").write_text(json.dumps({"data": articles}))
    return path


def settings(place, run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "suites": ["bias"],
        "models": {"base": str(place / "base" / "model")},
        "data": str(place / "data"),
        "compute": {"dtype": "float32", "threads": 1},
    }
    return EvalConfig.model_validate(values | changes)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_measures_and_more_models_later(place, tmp_path, capsys):
    run_eval(settings(place, tmp_path, limit=4))
    rows = lines(tmp_path / "eval" / "bias.jsonl")
    assert len(rows) == 3 * 4
    assert {row["variant"] for row in rows} == {"none", "respectful", "biased"}
    assert all(len(row["logprobs"]) == 2 and row["num_tokens"] == [3, 3] for row in rows)
    said = capsys.readouterr()
    assert "crows_pairs  respectful  entropy (bits)" in said.out
    assert "left out: winogender" in said.err and "licence: MIT" in said.err

    both = {name: str(place / name / "model") for name in ("base", "tuned")}
    run_eval(settings(place, tmp_path, models=both))
    more = lines(tmp_path / "eval" / "bias.jsonl")
    assert more[: len(rows)] == rows  # what was there is kept
    assert len(more) == 2 * 3 * NUM_PAIRS
    assert len({(row["model"], row["variant"], row["id"]) for row in more}) == len(more)
    summary = json.loads((tmp_path / "eval" / "bias.json").read_text())
    assert set(summary["models"]) == {"base", "tuned"}
    tuned = [m for m in summary["measures"] if m["model"] == "tuned"]
    assert len(tuned) == 3 * 2 and all(m["difference"] is not None for m in tuned)


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(place, tmp_path):
    run_eval(settings(place, tmp_path / "whole"))
    whole = tmp_path / "whole" / "eval" / "bias.jsonl"
    run_eval(settings(place, tmp_path / "cut"))
    cut = tmp_path / "cut" / "eval" / "bias.jsonl"
    text = whole.read_text()
    cut.write_text(text[: len(text) * 2 // 3])  # in the middle of a line
    run_eval(settings(place, tmp_path / "cut"))
    assert lines(cut) == lines(whole)


def test_rows_are_scored_again_without_the_model(place, tmp_path):
    run_eval(settings(place, tmp_path, limit=2))
    path = tmp_path / "eval" / "bias.jsonl"
    rows = lines(path)
    changed = [row | {"logprobs": [-1.0, -1.0], "scores": {}} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    run_eval(settings(place, tmp_path, rescore=True, models={}))
    assert [row["scores"] for row in lines(path)] == [{"entropy": 1.0, "stereotype": 0.0}] * 6
    summary = json.loads((tmp_path / "eval" / "bias.json").read_text())
    assert summary["measures"][0]["interval"]["value"] == 1.0


def test_rows_of_other_settings_or_models_are_not_mixed(place, tmp_path):
    run_eval(settings(place, tmp_path, limit=2))
    with pytest.raises(ConfigError, match="seed is 0 there, 5 here"):
        run_eval(settings(place, tmp_path, seed=5))
    with pytest.raises(ConfigError, match="the model 'base' was another one"):
        run_eval(settings(place, tmp_path, models={"base": str(place / "tuned" / "model")}))
    forget(settings(place, tmp_path))
    run_eval(settings(place, tmp_path, seed=5, limit=1))
    assert {row["seed"] for row in lines(tmp_path / "eval" / "bias.jsonl")} == {5}


def test_continuations_are_scored_by_one_scorer(place, tmp_path, capsys):
    data = tmp_path / "data" / "toxicity"
    data.mkdir(parents=True)
    rows = [{"prompt": {"text": f"w{i} w9", "toxicity": i / 5}} for i in range(4)]
    prompts = data / "real_toxicity_prompts_quark_val.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "list_of_naughty_and_bad_words.txt").write_text("darn\n")
    asked = {"suites": ["toxicity"], "data": str(tmp_path / "data")}
    run_eval(settings(place, tmp_path, **asked))
    rows = lines(tmp_path / "eval" / "toxicity.jsonl")
    assert len(rows) == 3 * 4
    assert all(row["scores"] == {"toxicity": 0.0, "toxic": 0.0} for row in rows)
    assert "toxicity by words: 1 where a text has a word of" in capsys.readouterr().out
    path = tmp_path / "eval" / "toxicity.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"scored_by": {"toxicity": "the classifier x"}}))
    with pytest.raises(ConfigError, match="scored by the classifier x, now it is by words"):
        run_eval(settings(place, tmp_path, **asked))
    run_eval(settings(place, tmp_path, rescore=True, **asked))
    assert json.loads(path.read_text())["scored_by"]["toxicity"].startswith("words")


def test_a_task_that_is_named_needs_its_file(place, tmp_path):
    with pytest.raises(DataError, match=r"has no toxicity/real_toxicity_prompts_quark"):
        run_eval(settings(place, tmp_path, suites=["toxicity"]))
    with pytest.raises(DataError, match="winogender: "):
        run_eval(settings(place, tmp_path, tasks=["crows_pairs", "winogender"]))


def test_a_context_too_short_says_how_many_shots_fit(place, tmp_path, capsys):
    """The instruction has 19 words, a shot 9, the question 8, the answer at most 16 tokens."""
    asked = {"suites": ["nlp"], "tasks": ["squad_v2"]}
    with pytest.raises(DataError, match=r"3 shots 0 of 2 .* 2 3 of 3: give --shots=2"):
        run_eval(settings(place, tmp_path, shots=3, **asked))
    run_eval(settings(place, tmp_path, shots=2, **asked))
    rows = lines(tmp_path / "eval" / "nlp.jsonl")
    assert len(rows) == NUM_QUESTIONS - 2  # two are examples
    assert {row["variant"] for row in rows} == {"2 shots"}
    assert all(row["prompt"].count("A: w3") == 2 for row in rows)
    assert "F1" in capsys.readouterr().out


def test_what_fits_no_context_is_left_out_and_said(place, tmp_path, capsys):
    (place / "data" / "truthfulqa").mkdir(exist_ok=True)
    question = {"question": "w5?", "mc1_targets": {"w6": 1, "w7": 0}}
    question["mc2_targets"] = question["mc1_targets"]
    path = place / "data" / "truthfulqa" / "mc_task_v1.json"
    path.write_text(json.dumps([question] * 2))
    run_eval(settings(place, tmp_path, suites=["truthfulness"], tasks=["truthfulqa_mc"]))
    rows = lines(tmp_path / "eval" / "truthfulness.jsonl")
    assert {row["variant"] for row in rows} == {"no examples"}
    said = capsys.readouterr().err
    assert "truthfulqa_mc: 2 of 2 items (prompts qa) do not fit the 64 tokens" in said
    summary = json.loads((tmp_path / "eval" / "truthfulness.json").read_text())
    assert summary["left_out"] == {"truthfulqa_mc": {"base": 2}}


def test_the_files_of_the_run_that_trained_stay_as_they_are(place, tmp_path):
    """Its settings and environment; those of heed eval are in eval/, once it may run."""
    theirs = {"config.toml": "seed = 3\n", "env.json": '{"python": "3.11.0"}'}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="files are missing"):
        run_eval(settings(place, tmp_path, suites=["toxicity"]))
    assert not list((tmp_path / "eval").iterdir())
    run_eval(settings(place, tmp_path, limit=1))
    assert {name: (tmp_path / name).read_text() for name in theirs} == theirs
    assert '    "bias",' in (tmp_path / "eval" / "config.toml").read_text()
    before = (tmp_path / "eval" / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match="seed is 0 there, 5 here"):
        run_eval(settings(place, tmp_path, seed=5))
    assert (tmp_path / "eval" / "config.toml").read_bytes() == before


def test_another_file_in_the_place_of_the_usual_one_is_said(place, tmp_path, capsys):
    """Small samples that lie about are read for no task; a known stand-in is named."""
    data = tmp_path / "data"
    (data / "squad").mkdir(parents=True)
    text = (place / "data" / "squad" / "dev-v2.0.json").read_text()
    (data / "squad" / "squad_v2_train_sample.json").write_text(text)
    (data / "fixtures_tiny").mkdir()
    for name in ("drop.json", "quac_sample.json"):
        (data / "fixtures_tiny" / name).write_text("{}")
    run_eval(settings(place, tmp_path / "run", suites=["nlp"], data=str(data), limit=1))
    said = capsys.readouterr().err
    assert "squad_v2_train_sample.json is read, squad/dev-v2.0.json is not there" in said
    assert "left out: drop: " in said and "left out: quac: " in said
    rows = lines(tmp_path / "run" / "eval" / "nlp.jsonl")
    assert {row["task"] for row in rows} == {"squad_v2"}


def test_a_single_item_has_no_interval(place, tmp_path, capsys):
    both = {name: str(place / name / "model") for name in ("base", "tuned")}
    run_eval(settings(place, tmp_path, limit=1, models=both))
    out = capsys.readouterr().out
    assert "nan" not in out
    cells = [line.split() for line in out.splitlines() if "tuned" in line]
    assert all(row[-3:-2] == ["1"] and row[-1] == "(-)" for row in cells) and len(cells) == 6


def test_the_words_of_the_command():
    words = ["--model=runs/a/sft/model", "--model=base", "--model=PPO-ptx=x y", "--limit=5"]
    path, overrides = _eval_words("bias,nlp", [*words, "--rescore"])
    config = load_config(EvalConfig, path, [word[2:] for word in overrides] + ["data=d"])
    assert config.suites == ("bias", "nlp")
    assert config.models == {"sft": "runs/a/sft/model", "base": "base", "PPO-ptx": "x y"}
    assert config.limit == 5 and config.rescore
    assert _eval_words("eval.toml", []) == ("eval.toml", [])
    with pytest.raises(ConfigError, match="two models are called 'base': give --model NAME=DIR"):
        _eval_words("bias", ["--model=base", "--model=x/base"])


def test_the_command_from_a_terminal(place, tmp_path, capsys):
    words = ["eval", "bias", "--model", str(place / "base" / "model")]
    words += ["--data", str(place / "data"), "--limit", "1", "--run-dir", str(tmp_path)]
    assert main(words) == 0
    assert "entropy (bits)" in capsys.readouterr().out
    assert main([*words[:1], "bais", *words[2:]]) == 2
    assert "did you mean 'bias'" in capsys.readouterr().err


def test_tasks_of_the_harness_are_told_by_their_prefix(place, tmp_path):
    names = ["crows_pairs, lm_eval:arc_easy", "bbq"]
    assert split_names(names) == (["crows_pairs", "bbq"], ["lm_eval:arc_easy"])
    with pytest.raises(ConfigError, match="lm_eval:arc_easy belongs to the suite nlp: heed eval"):
        run_eval(settings(place, tmp_path, tasks=["lm_eval:arc_easy"]))
