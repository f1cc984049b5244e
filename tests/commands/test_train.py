"""heed ppo from files: what it measures on validation prompts while it trains."""

import json
from functools import partial

import pytest
import torch

from heedful.commands.train import fit, run_ppo, run_sft
from heedful.config import PPOConfig, SFTConfig
from heedful.errors import ConfigError, DataError
from heedful.models.language_model import load_language_model
from heedful.models.scalar_model import scalar_model_from
from heedful.rollout.engine import end_tokens, sample
from heedful.training.checkpoint import publish

ROWS = [{"text": f"w{i} w{i + 3} w{i + 7}", "split": "train"} for i in range(2, 34)]
VALID = [{"text": "w40 w41", "split": "valid"}, {"text": "w50 w51 w52", "split": "valid"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model, tokenizer):
    directory = tmp_path_factory.mktemp("models")
    policy = publish(tiny_model(), tokenizer, directory / "policy", {})
    return policy, publish(scalar_model_from(policy, 3), tokenizer, directory / "reward", {})


def settings(run_dir, models, rows, **changes):
    run_dir.mkdir()
    prompts = run_dir / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "run_dir": str(run_dir / "run"),
        "policy": str(models[0]),
        "reward_model": str(models[1]),
        "data": {"prompts": [str(prompts)]},
        "sampling": {"max_new_tokens": 5},
        "compute": {"dtype": "float32"},
        # too small a rate to change a weight in fp32
        "ppo": {"episodes": 96, "batch_size": 32, "minibatch_size": 32, "lr": 1e-20},
    }
    return PPOConfig.model_validate(values | changes)


@pytest.mark.parametrize("cut", [-2.0, "none"])
def test_ppo_measures_its_score_on_validation_prompts(tmp_path, models, tokenizer, results_of, cut):
    from transformers import AutoModelForSequenceClassification

    ppo = {"episodes": 96, "batch_size": 32, "minibatch_size": 32, "lr": 1e-20}
    ppo["missing_eos_score"] = cut
    config = settings(tmp_path / "a", models, [*ROWS, *VALID], eval_every=2, seed=5, ppo=ppo)
    run_ppo(config)
    rows = results_of(tmp_path / "a" / "run")
    assert ["valid/score" in row for row in rows] == [False, True, True]  # the last one always
    prompts = [tokenizer(f"{row['text']}\n")["input_ids"] for row in VALID]
    rollout = sample(
        load_language_model(str(models[0])),
        prompts,
        max_new_tokens=5,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        generator=torch.Generator().manual_seed(5),
    )
    theirs = AutoModelForSequenceClassification.from_pretrained(models[1]).eval()
    texts = [[*p, *r] for p, r in zip(prompts, rollout.rows(), strict=True)]
    scores = [theirs(torch.tensor([text])).logits.item() for text in texts]
    assert not rollout.finished.any()
    expected = sum(scores) / 2 if cut == "none" else cut
    assert rows[1]["valid/score"] == pytest.approx(expected, abs=1e-5)
    assert rows[2]["valid/score"] == rows[1]["valid/score"]


def test_sft_chooses_by_the_same_worth_of_a_cut_answer(tmp_path, models, results_of):
    """Two tokens are too few for this model to end an answer: every epoch is worth -1."""
    data = {"prompts": VALID, "demonstrations": [{"prompt": "w2", "response": "w3 w4 w5 w6 w7"}]}
    data["demonstrations"][0]["split"] = "train"
    for name, rows in data.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "run_dir": str(tmp_path / "run"),
        "base": str(models[0]),
        "reward_model": str(models[1]),
        "select": "score",
        "data": {name: [str(tmp_path / f"{name}.jsonl")] for name in data},
        "sampling": {"max_new_tokens": 2},
        "compute": {"dtype": "float32"},
        "epochs": 2,
        "optim": {"lr": 1e-6, "batch_size": 1},
    }
    run_sft(SFTConfig.model_validate(values))
    scores = [row.get("valid/score") for row in results_of(tmp_path / "run")]
    assert scores == [-1.0, -1.0]


def test_measuring_needs_validation_prompts(tmp_path, models):
    with pytest.raises(ConfigError, match=r"eval_every needs data\.prompts"):
        run_ppo(settings(tmp_path / "a", models, ROWS, eval_every=1))


@pytest.mark.parametrize(("context", "found"), [(64, 62 + 5), (32, 30 + 5)])
@pytest.mark.parametrize("step", ["sft", "ppo"])
def test_validation_prompts_and_their_samples_fit_both_models(
    tmp_path, models, tiny_model, tokenizer, step, context, found
):
    """The policy reads 64 tokens; the reward model as many, or 32."""
    base = publish(tiny_model(max_position_embeddings=context), tokenizer, tmp_path / "base", {})
    reward = publish(scalar_model_from(base, 3), tokenizer, tmp_path / "reward", {})
    valid = {"text": " ".join(["w9"] * (found - 5)), "split": "valid"}
    named = models[0] if context == 64 else reward
    if step == "ppo":
        config = settings(tmp_path / "a", (models[0], reward), [*ROWS, valid], eval_every=1)
        run = partial(run_ppo, config)
    else:
        rows = {"prompts": valid, "demonstrations": {"prompt": "w2", "response": "w3"}}
        for name, row in rows.items():
            (tmp_path / f"{name}.jsonl").write_text(json.dumps({"split": "train"} | row) + "\n")
        values = {
            "run_dir": str(tmp_path / "a" / "run"),
            "base": str(models[0]),
            "reward_model": str(reward),
            "select": "score",
            "data": {name: [str(tmp_path / f"{name}.jsonl")] for name in rows},
            "sampling": {"max_new_tokens": 5},
            "compute": {"dtype": "float32"},
            "optim": {"lr": 1e-6, "batch_size": 1},
        }
        run = partial(run_sft, SFTConfig.model_validate(values))
    message = f"have {found} tokens, the context of {named} is {context}: .* sampling.max_new"
    with pytest.raises(DataError, match=message):
        run()
    assert not (tmp_path / "a" / "run" / "metrics.jsonl").exists()  # before the first update


def test_a_model_keeps_every_token_that_ends_its_responses(tmp_path, tiny_model, tokenizer):
    """Llama 3's chat models have three: what is published names them all, the tokenizer's first."""
    model = tiny_model()
    model.generation_config.eos_token_id = [90, 0, 91]
    base = publish(model, tokenizer, tmp_path / "base", {})
    again = load_language_model(base)
    fit(again, tokenizer)
    published = publish(again, tokenizer, tmp_path / "again", {})
    listed = json.loads((published / "generation_config.json").read_text())["eos_token_id"]
    assert listed == [0, 90, 91]
    assert end_tokens(load_language_model(published), 0) == (0, 90, 91)
