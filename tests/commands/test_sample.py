"""Sampled completions: where one ends, what it is worth, and how a few-shot prompt begins."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification

from heedful.commands.sample import best_of_kl, few_shot, prompt_tokens, run_sample
from heedful.config import SampleConfig, SampledModel
from heedful.data.formats import read_completions
from heedful.errors import ConfigError
from heedful.models.scalar_model import scalar_model_from
from heedful.records import Prompt
from heedful.training.checkpoint import publish

EOS = 0
NUM_PROMPTS, MAX_NEW_TOKENS = 30, 6


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_model, tokenizer):
    """A model that ends about one of two answers, its reward model, and prompts."""
    path = tmp_path_factory.mktemp("sample")
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.weight.data[EOS] = 2 * model.lm_head.weight.data.mean(0)
    publish(model, tokenizer, path / "model", {})
    publish(scalar_model_from(path / "model", 3), tokenizer, path / "reward", {})
    rows = [{"text": f"w{i} w{i + 5}", "split": "valid"} for i in range(10, 10 + NUM_PROMPTS)]
    (path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(directory, run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "prompts": [str(directory / "prompts.jsonl")],
        "reward_model": str(directory / "reward"),
        "sampling": {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 3.0},
        "compute": {"dtype": "float32"},
    }
    return values | changes


def completions(run_dir):
    return [json.loads(line) for line in (run_dir / "completions.jsonl").read_text().splitlines()]


def worth(directory, tokenizer, prompt, completion):
    """A cut answer is worth -1, another what transformers reads at its EOS."""
    if not completion["finished"]:
        return -1.0
    theirs = AutoModelForSequenceClassification.from_pretrained(directory / "reward").eval()
    tokens = tokenizer.encode(f"{prompt}\n") + tokenizer.encode(completion["text"]) + [EOS]
    with torch.no_grad():
        return theirs(torch.tensor([tokens])).logits.item()


def test_an_answer_that_did_not_end_is_worth_the_penalty(directory, tokenizer, tmp_path):
    models = [{"name": "m", "path": str(directory / "model")}]
    stopped = models[0] | {"name": "stopped", "stop": ["w"]}  # every word begins with it
    config = settings(directory, tmp_path, models=[*models, stopped])
    run_sample(SampleConfig.model_validate(config))
    rows = completions(tmp_path)
    plain = [(row["prompt"], row["completions"][0]) for row in rows]
    ended = [completion["finished"] for _, completion in plain]
    assert 0 < sum(ended) < NUM_PROMPTS
    for prompt, completion in plain:
        expected = worth(directory, tokenizer, prompt, completion)
        assert completion["score"] == pytest.approx(expected, abs=1e-4)
    for row in rows:  # a stop text ends an answer as EOS does
        completion = row["completions"][1]
        assert completion["finished"] and completion["text"] == ""
        expected = worth(directory, tokenizer, row["prompt"], completion)
        assert completion["score"] == pytest.approx(expected, abs=1e-4)


def test_an_other_eos_of_the_generation_config_ends_an_answer(directory, tokenizer, tmp_path):
    """All tokens are EOS: every answer is empty, and has ended."""
    model, path = directory / "model", tmp_path / "chatty"
    path.mkdir()
    for file in model.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(100))}))
    config = settings(directory, tmp_path / "run", models=[{"name": "m", "path": str(path)}])
    run_sample(SampleConfig.model_validate(config))
    rows = completions(tmp_path / "run")
    assert {(c["text"], c["finished"]) for row in rows for c in row["completions"]} == {("", True)}


def test_a_few_shot_prompt_begins_with_bos(tokenizer, tmp_path):
    begun = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="<eos>",
        bos_token="w99",
        pad_token="<pad>",
    )
    begun.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "w99 $A", None, [("w99", 99)]
    )
    prefix = tmp_path / "prefix.json"
    prefix.write_text(json.dumps({"text": "w4 "}))
    spec = SampledModel(name="m", path="unused", prefix=str(prefix))
    prompts = [Prompt("p", "w5 w6")]
    assert few_shot("w4 ", "w5 w6").split() == ["w4", "Task:", "w5", "w6", "Answer:"]
    unknown = 2  # "Task:" and "Answer:" are no words of this tokenizer
    whole = [4, unknown, 5, 6, unknown]
    assert prompt_tokens(prompts, begun, spec, 6) == [[99, *whole]]
    assert prompt_tokens(prompts, begun, spec, 4) == [[99, *whole[2:]]]
    assert prompt_tokens(prompts, tokenizer, spec, 4) == [whole[1:]]


def test_the_best_of_several_is_a_model_of_its_own(directory, tokenizer, tmp_path, capsys):
    """Beside all samples of the same seed: the first of the highest score of each three."""
    path = str(directory / "model")
    best = {"name": "m", "path": path, "best_of": 3, "num_samples": 2}
    for name, model in {"best": best, "all": {"name": "m", "path": path, "num_samples": 6}}.items():
        config = settings(directory, tmp_path / name, models=[model])
        run_sample(SampleConfig.model_validate(config))
        if name == "best":
            said = capsys.readouterr().err
    # log 3 - 2/3
    assert "m: each the best of 3 by" in said and "at most 0.43 nats a response" in said
    chosen, drawn = completions(tmp_path / "best"), completions(tmp_path / "all")
    differ = 0
    for row, every in zip(chosen, drawn, strict=True):
        assert len(row["completions"]) == 2
        for number, one in enumerate(row["completions"]):
            three = every["completions"][3 * number : 3 * number + 3]
            scores = [worth(directory, tokenizer, row["prompt"], other) for other in three]
            top = three[scores.index(max(scores))]
            assert (one["text"], one["finished"]) == (top["text"], top["finished"])
            assert one["score"] == pytest.approx(max(scores), abs=1e-4)
            assert (one["best_of"], one["kl_at_most"]) == (3, 0.4319)
            differ += one["text"] != three[0]["text"]
    assert differ >= 3
    read = list(read_completions(tmp_path / "best" / "completions.jsonl"))
    assert {one.model for _, given in read for one in given} == {"m"}


def test_the_kl_of_the_best_of_n_is_that_of_its_distribution():
    """Of n draws from 0 to 1 the largest has the density n x^(n-1): its KL by numbers."""
    steps = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for n in (1, 2, 16, 64):
        density = n * steps ** (n - 1)
        assert best_of_kl(n) == pytest.approx(float(torch.xlogy(density, density).mean()), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_model": None}, "needs the reward model that chooses"),
        ({"sampling": {"max_new_tokens": 2, "temperature": 0.0}}, "among equal answers"),
    ],
)
def test_the_best_of_nothing_is_refused(directory, tmp_path, changes, message):
    models = [{"name": "m", "path": str(directory / "model"), "best_of": 2}]
    config = settings(directory, tmp_path, models=models, **changes)
    with pytest.raises(ConfigError, match=message):
        run_sample(SampleConfig.model_validate(config))


def test_completions_keep_what_is_known_of_their_prompts(directory, tmp_path):
    """So that rankings of them are held out where the prompts are, however they are read."""
    rows = [{"id": split, "text": "w10 w15", "split": split} for split in ("test", "train")]
    rows[0] |= {"source": "labeler", "use_case": "chat"}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    models = [{"name": "m", "path": str(directory / "model")}]
    changes = {"prompts": [str(prompts)], "split": None, "reward_model": None, "models": models}
    run_sample(SampleConfig.model_validate(settings(directory, tmp_path / "run", **changes)))
    found = {row["prompt_id"]: row["split"] for row in completions(tmp_path / "run")}
    assert found == {"test": "test", "train": "train"}
    read = read_completions(tmp_path / "run" / "completions.jsonl")
    assert [(prompt.split, prompt.source, prompt.use_case) for prompt, _ in read] == [
        ("test", "labeler", "chat"),
        ("train", "api", None),
    ]


def test_where_memory_runs_out_fewer_are_written_and_the_generator_begins_again(
    directory, tmp_path, monkeypatch, capsys
):
    """As if so few had been asked for."""
    from heedful.commands import sample as module

    few = {"max_new_tokens": MAX_NEW_TOKENS, "max_rows": 8}
    models = [{"name": "m", "path": str(directory / "model")}]

    def run(name, **sampling):
        config = settings(directory, tmp_path / name, models=models, sampling=few | sampling)
        run_sample(SampleConfig.model_validate(config))

    run("asked")
    sampled = module.sample
    tried: list[int] = []

    def limited(*arguments, max_rows, **options):
        tried.append(max_rows)
        rollout = sampled(*arguments, max_rows=max_rows, **options)  # draws before it fails
        if max_rows > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return rollout

    monkeypatch.setattr(module, "sample", limited)
    run("halved", max_rows=32)
    assert tried[:3] == [32, 16, 8]
    written = [(tmp_path / name / "completions.jsonl").read_bytes() for name in ("asked", "halved")]
    assert written[0] == written[1] and written[0]
    assert "8 responses at a time from here on" in capsys.readouterr().err
