"""heed prefix: which candidates there are, what they are worth, and which is chosen."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from heedful.commands.prefix import run_prefix
from heedful.config import PrefixConfig
from heedful.errors import DataError
from heedful.models.scalar_model import scalar_model_from
from heedful.training.checkpoint import publish

EOS, NUM_PROMPTS = 0, 12


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_model, tokenizer):
    """A model that ends about one of two answers, its reward model, prompts, demonstrations."""
    path = tmp_path_factory.mktemp("prefix")
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.weight.data[EOS] = 2 * model.lm_head.weight.data.mean(0)
    publish(model, tokenizer, path / "model", {})
    publish(scalar_model_from(path / "model", 3), tokenizer, path / "reward", {})
    prompts = [{"text": f"w{i} w{i + 5}", "split": "valid"} for i in range(10, 10 + NUM_PROMPTS)]
    shown = [{"prompt": f"w{i}", "response": f"w{i + 1}", "split": "train"} for i in range(20, 26)]
    shown.append({"prompt": "w90", "response": "w91", "split": "valid"})  # held out
    shown.append({"prompt": "w92", "response": "w93\n\nw94", "split": "train"})  # two answers
    shown.append({"prompt": "w95 " * 20, "response": "w96", "split": "train"})  # too long
    for name, rows in {"prompts": prompts, "shown": shown}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (path / f"{name}.jsonl").write_text(text)
    candidates = [{"id": f"p{i}", "text": f"w{i} "} for i in (40, 50)]
    (path / "written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in candidates))
    return path


def settings(directory, run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "model": str(directory / "model"),
        "reward_model": str(directory / "reward"),
        "prefixes": str(directory / "written.jsonl"),
        "prompts": [str(directory / "prompts.jsonl")],
        "max_prompt_tokens": 40,
        "sampling": {"max_new_tokens": 6, "temperature": 3.0},
        "compute": {"dtype": "float32"},
    }
    return PrefixConfig.model_validate(values | changes)


def test_the_best_of_written_and_drawn_candidates_is_chosen(directory, tmp_path, capsys):
    changes = {"demonstrations": [str(directory / "shown.jsonl")], "num_drawn": 3, "shots": 2}
    run_prefix(settings(directory, tmp_path, **changes))
    found = json.loads((tmp_path / "prefix.json").read_text())
    assert list(found["scores"]) == ["p40", "p50", "drawn 1", "drawn 2", "drawn 3"]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == NUM_PROMPTS * 6
    means = {
        name: fmean(row["score"] for row in answers if row["prefix"] == name)
        for name in (*found["scores"], "no prefix")
    }
    for name, mean in found["scores"].items():
        assert mean == pytest.approx(means[name], abs=1e-9)
    best = max(found["scores"], key=lambda name: means[name])
    assert found["id"] == best and found["score"] == pytest.approx(means[best])
    for name, row in found["less_the_best"].items():
        assert row["value"] == pytest.approx(means[name] - means[best], abs=1e-9)
        assert row["low"] <= row["value"] <= row["high"]
    assert "no prefix" in found["less_the_best"] and "no prefix" not in found["scores"]
    assert f"{best:<9}" in capsys.readouterr().out


def test_drawn_prefixes_are_whole_examples_of_the_train_split(directory, tmp_path):
    changes = {"demonstrations": [str(directory / "shown.jsonl")], "num_drawn": 4, "shots": 6}
    run_prefix(settings(directory, tmp_path, prefixes=None, max_prompt_tokens=60, **changes))
    found = json.loads((tmp_path / "prefix.json").read_text())
    examples = found["text"].split("\n\n")
    assert examples.pop() == ""
    assert sorted(examples) == [f"Task: w{i}\nAnswer: w{i + 1}" for i in range(20, 26)]
    more = changes | {"shots": 7, "max_prompt_tokens": 62}
    message = r"6 demonstrations of the train split fit 4 tokens each .* has 7"
    with pytest.raises(DataError, match=message):
        run_prefix(settings(directory, tmp_path / "b", prefixes=None, **more))


def test_a_prefix_is_chosen_by_what_ended_answers_are_worth(directory, tmp_path):
    greedy = {"max_new_tokens": 1, "temperature": 0.0}  # no answer ends here
    run_prefix(settings(directory, tmp_path, stop=["nothing says this"], sampling=greedy))
    found = json.loads((tmp_path / "prefix.json").read_text())
    assert found["scores"] == {"p40": -1.0, "p50": -1.0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "line 2: a prefix has an id of its"),
        ('{"id": "a"}', "line 1: a prefix"),
        ("", "holds no candidate"),
    ],
)
def test_what_is_no_candidate_is_named(directory, tmp_path, lines, message):
    (tmp_path / "bad.jsonl").write_text(lines)
    with pytest.raises(DataError, match=message):
        run_prefix(settings(directory, tmp_path / "r", prefixes=str(tmp_path / "bad.jsonl")))
