"""The numbers of a dry run: by hand, and as the steps themselves count."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from heedful.commands.footprint import (
    Part,
    cache_bytes,
    llama_parameters,
    num_parameters,
    vocabulary_size,
    weigh,
)
from heedful.commands.plan import UNKNOWN, derived_numbers
from heedful.config import (
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    SampleConfig,
    SampledModel,
    SFTConfig,
    Shape,
)

OPTIM = {"lr": 1e-3, "batch_size": 32}


def rows(config: Any, **like: Any) -> dict[str, str]:
    """The table as {name: value}."""
    found = [re.split(r" {2,}", line) for line in derived_numbers(config, **like).splitlines()]
    return {row[0]: row[1] for row in found}


def write_jsonl(path: Path, values: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return str(path)


def sft(tmp_path: Path, num: int, **changes: Any) -> SFTConfig:
    demonstrations = [
        {"prompt": f"p{i}", "response": "r", "split": "train" if i < num else "valid"}
        for i in range(num + 5)
    ]
    data = {"demonstrations": [write_jsonl(tmp_path / "d.jsonl", demonstrations)]}
    values = {"run_dir": "x", "base": "no/model", "data": data, "optim": OPTIM}
    return SFTConfig.model_validate(values | changes)


@pytest.mark.parametrize(("num", "epochs"), [(100, 16), (32, 2), (33, 1), (3, 0.1)])
def test_updates_of_sft_are_those_of_the_step(tmp_path, num: int, epochs: float):
    from heedful.training.step1_sft import num_updates

    config = sft(tmp_path, num, epochs=epochs)
    found = rows(config)
    in_all, per_epoch = num_updates(config, num)
    assert found["demonstrations to train on"] == str(num)
    assert (found["updates in all"], found["updates per epoch"]) == (str(in_all), str(per_epoch))


def test_what_is_too_few_is_warned_of(tmp_path):
    said = derived_numbers(sft(tmp_path, 3))
    assert "an update of 32 passes over all 3 more than once: lower optim.batch_size" in said
    assert "lower optim.batch_size" not in derived_numbers(sft(tmp_path, 32))
    values = {"run_dir": "x", "policy": "no/policy", "reward_model": "no/reward"}
    ppo = {"batch_size": 8, "minibatch_size": 4, "warmup_iterations": 10}
    for episodes, is_few in ((16, True), (80, True), (88, False)):
        config = PPOConfig.model_validate({**values, "ppo": {**ppo, "episodes": episodes}})
        said = derived_numbers(config)
        few = f"warning: there are only {episodes // 8} iterations, and the learning rate rises"
        assert (few in said) == is_few


def test_the_mix_of_sft(tmp_path):
    config = sft(tmp_path, 40, pretraining_mix=0.2, row_tokens=100)
    found = rows(config)
    assert found["pretraining rows per update"] == "8"  # 8 of 40 examples are a fifth
    # 32 sequences of 1,024 + 1,024 tokens and 8 rows of 100
    assert found["tokens per update, at most"] == "66,336"
    with pytest.raises(ValidationError, match="less than 1"):  # no demonstrations would be left
        sft(tmp_path, 40, pretraining_mix=1)


def test_data_that_is_not_there_is_not_guessed(tmp_path):
    config = sft(tmp_path, 3)
    missing = config.model_copy(
        update={"data": config.data.model_copy(update={"demonstrations": ()})}
    )
    assert rows(missing)["updates in all"] == UNKNOWN


def ranking(ranks: list[int], **more: str) -> dict[str, Any]:
    completions = [{"text": str(i)} for i in range(len(ranks))]
    return {"prompt": "p", "completions": completions, "ranks": ranks, "split": "train", **more}


def test_pairs_of_a_reward_model_without_ties_and_held_out_labelers(tmp_path):
    rankings = [
        ranking([1, 2, 2, 3]),  # 6 pairs, 1 tied
        ranking([1, 2]),
        ranking([1, 1]),  # nothing to learn
        ranking([1, 2, 3], cohort="heldout"),
        ranking([1, 2, 3], split="valid"),
    ]
    data = {"comparisons": [write_jsonl(tmp_path / "c.jsonl", rankings)]}
    values = {"run_dir": "x", "base": "no/model", "data": data, "optim": OPTIM | {"batch_size": 1}}
    found = rows(RewardConfig.model_validate(values))
    assert (found["rankings to train on"], found["untied pairs"]) == ("2", "6")
    assert found["pairs per update, at most"] == "6"  # C(4,2)
    assert found["updates in all"] == "2"
    shuffled = rows(RewardConfig.model_validate(values | {"batching": "shuffled_pairs"}))
    assert (shuffled["shuffled pairs per update"], shuffled["updates in all"]) == ("3", "2")


def test_the_batch_of_the_paper_has_at_most_2304_pairs():
    values = {"run_dir": "x", "base": "b", "data": {}, "optim": OPTIM | {"batch_size": 64}}
    assert rows(RewardConfig.model_validate(values))["pairs per update, at most"] == "2,304"


def test_ppo_with_numbers_that_do_not_divide(tmp_path):
    prompts = [{"text": f"p{i}", "split": "train"} for i in range(50)]
    values = {
        "run_dir": "x",
        "policy": "no/policy",
        "reward_model": "no/reward",
        "data": {"prompts": [write_jsonl(tmp_path / "p.jsonl", prompts)]},
        "row_tokens": 10,
        "ppo": {
            "episodes": 1001,
            "batch_size": 100,
            "minibatch_size": 40,
            "epochs": 2,
            "warmup_iterations": 3,
            "ptx_coef": 1,
            "ptx_rows_per_episode": 0.5,
        },
    }
    found = rows(PPOConfig.model_validate(values))
    assert found["iterations"] == "11"
    assert found["updates per iteration"] == "6"  # 40 + 40 + 20, twice
    assert found["updates in all"] == "66"
    assert found["warm-up updates"] == "18"
    assert found["passes over the prompts"] == "20.0"
    assert found["pretraining rows in all"] == "1,100"  # (20 + 20 + 10) x 2 x 11
    assert found["pretraining tokens in all"] == "11,000"
    assert "evaluations" not in found
    looked = rows(PPOConfig.model_validate(values | {"eval_every": 3}))
    assert looked["evaluations"] == "4"  # after 3, 6, 9 and 11


def test_completions_of_samples(tmp_path):
    prompts = [{"text": f"p{i}", "split": "test"} for i in range(9)]
    config = SampleConfig.model_validate(
        {
            "run_dir": "x",
            "prompts": [write_jsonl(tmp_path / "p.jsonl", prompts)],
            "limit": 7,
            "models": [{"name": "a", "path": "a", "num_samples": 3}, {"name": "b", "path": "b"}],
            "sampling": {"max_new_tokens": 10},
        }
    )
    found = rows(config)
    assert (found["completions in all"], found["tokens sampled, at most"]) == ("28", "280")
    best = SampledModel(name="c", path="c", num_samples=2, best_of=5)
    found = rows(config.model_copy(update={"models": (best,)}))
    assert (found["completions in all"], found["tokens sampled, at most"]) == ("14", "700")


# Models


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model, tokenizer) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_parameters_are_counted_by_the_files_or_by_the_configuration(model, tmp_path, tiny_model):
    expected = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert num_parameters(str(model)) == expected
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    assert num_parameters(str(tmp_path)) == expected
    assert num_parameters(str(tmp_path / "no")) is None


@pytest.mark.parametrize("tie", [True, False])
def test_parameters_of_a_shape_are_those_of_the_model_that_is_made(tie: bool, tiny_model):
    shape = Shape(hidden_size=32, num_layers=2, num_heads=4, mlp_size=64, tie_embeddings=tie)
    made = tiny_model(num_key_value_heads=4, tie_word_embeddings=tie)
    expected = sum(parameter.numel() for parameter in made.parameters())
    assert llama_parameters(shape, vocabulary=100) == expected


def test_the_vocabulary_counts_added_tokens_once(model, tmp_path):
    from transformers import AutoTokenizer

    assert vocabulary_size(str(model)) == 100
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path)
    assert vocabulary_size(str(tmp_path)) == len(tokenizer) == 101


def test_bytes_of_training():
    policy = Part("policy", "", True, average=True)
    # weight and gradient of 2 bytes, master, its gradient and two moments of 4, the average of 4
    assert weigh(policy, 10, "bfloat16") == (240, 240)
    assert weigh(policy._replace(average=False), 10, "auto") == (200, 240)
    assert weigh(policy._replace(is_trained=False), 10, "auto") == (20, 40)
    assert weigh(policy, 10, "float32", lora_rank=8) == (40, 40)


def test_bytes_of_the_cache(model):
    # keys and values, 2 layers, 2 groups of 8, 4 bytes
    assert cache_bytes(str(model), 3, 5, "float32") == 2 * 2 * 2 * 8 * 4 * 3 * 5


def test_a_model_still_to_be_made_counts_as_the_one_it_comes_from(model, tmp_path):
    config = sft(tmp_path, 3, base="runs/stages/base/model")
    assert "unknown" in rows(config)["policy: memory"]
    found = derived_numbers(config, {"runs/stages/base/model": str(model)})
    assert f"{num_parameters(str(model)):,} parameters" in found


def test_pretraining_knows_its_size_from_the_tokenizer(model):
    values = {
        "run_dir": "x",
        "tokenizer": str(model),
        "data": {"train": ["a.txt"]},
        "num_tokens": 1000,
        "row_tokens": 32,
        "optim": OPTIM | {"batch_size": 4},
    }
    found = rows(PretrainConfig.model_validate(values))
    assert (found["tokens per update"], found["updates"]) == ("128", "8")
    # tied embeddings 100 x 128, 4 layers of 4 d^2 + 3 d m + 2 d, the last norm
    parameters = 100 * 128 + 4 * (4 * 128**2 + 3 * 128 * 384 + 2 * 128) + 128
    assert found["parameters"] == f"{parameters:,}"
