"""recipes/english.toml from end to end, on made-up files with the names and shapes of real ones.

Once from a Hugging Face directory (--base), once with a tokenizer and a base model of its own. The
figures are checked against counts by hand and against transformers' own classes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from heedful.cli import main

RECIPE = Path(__file__).parents[1] / "recipes" / "english.toml"
VARIABLES = {
    "episodes": 8,
    "ppo_batch": 4,
    "ppo_minibatch": 2,
    "sft_epochs": 1,
    "num_answered": 6,
    "max_prompt_tokens": 48,
    "max_new_tokens": 8,
    "pretrain_tokens": 4096,
}
LOOP = {"sft", "ppo_init", "reward", "ppo_ptx", "samples", "measures", "summarize", "report"}
MODELS = {"base", "PPO init", "SFT", "PPO-ptx"}
# Of the local model: less than the recipe's 480 tokens of a held-out document.
CONTEXT = 320
MAX_DOCUMENT_TOKENS = CONTEXT + 1  # the last one is predicted and not read
MAX_SAMPLE_PROMPT_TOKENS = 128

THINGS = ("river", "stone", "garden", "letter", "winter", "bridge", "market", "candle", "forest")
PLACES = ("Oslo", "Cairo", "Lima", "Quito", "Dakar", "Hanoi", "Perth", "Turin", "Kyoto", "Malmo")
TEXTS = (
    "wikipedia",
    "textbooks_openstax",
    "plain_english_gov",
    "tech_docs",
    "books_children_adventure",
    "valid_mix",
)


# The data folder and the base model


def things(count: int) -> list[tuple[int, str, str]]:
    """(number, thing, place): no two alike among the first ninety (9 and 10 have no divisor)."""
    return [(i, THINGS[i % 9], PLACES[i % 10]) for i in range(count)]


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def rows(values: Iterable[dict[str, Any]]) -> list[str]:
    return [json.dumps(value) for value in values]


def document(number: int, place: str) -> str:
    lines = [f"The {a} of {place} was moved {number + i} times." for i, a in enumerate(THINGS)]
    return "\n".join(lines)


def demonstration(kind: str, number: int, thing: str, place: str) -> dict[str, Any]:
    return {
        "id": f"{kind}-{number}",
        "prompt": f"Say something about the {thing} of {place} ({kind}).",
        "response": f"The {thing} of {place} is known to everyone there.",
        "source": kind,
    }


def comparison(kind: str, number: int, thing: str, place: str) -> dict[str, Any]:
    """Every better response is longer, and begins with a word that no worse one has."""
    texts = [f"Bad {thing}.", f"Good: the {thing} of {place} is a fine one to look at."]
    ranking = [2, 1]
    if kind == "pandalm":  # three of them, two tied; some responses are empty in these files
        texts, ranking = [*texts, "" if number % 2 else "Bad."], [2, 1, 2]
    prompt = f"What of the {thing} of {place}?"
    if kind.startswith("hh"):
        prompt = f"Human: {prompt}\n\nAssistant: Which one?\n\nHuman: {kind}.\n\nAssistant:"
    return {"id": f"{kind}-{number}", "prompt": prompt, "responses": texts, "ranking": ranking}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder laid out as the recipe wants it."""
    path = tmp_path_factory.mktemp("english") / "data"
    for place, name in enumerate(TEXTS):
        documents = [document(10 * i + place, PLACES[i % 10]) * (1 + i % 4) for i in range(12)]
        lines = [line for text in documents for line in (text, "<|endoftext|>")]
        write(path / "text" / f"{name}.txt.gz", lines)
    for name in ("dolly_sample_human.jsonl", "seed_tasks_human.jsonl", "gsm8k_train_human.jsonl.gz",
                 "tldr_commands_human.jsonl.gz", "gpteacher_roleplay.jsonl.gz"):  # fmt: skip
        found = [demonstration(name.split("_")[0], *row) for row in things(24)]
        write(path / "demonstrations" / name, rows(found))
    for name in ("hh_harmless_base_test", "hh_helpful_base_recovered", "mtbench_human_majority",
                 "pandalm_3annotators"):  # fmt: skip
        kind = "_".join(name.split("_")[: 2 if name.startswith("hh") else 1])
        found = [comparison(kind, *row) for row in things(30)]
        found.append(found[0] | {"ranking": None})  # no majority
        found.append(found[1] | {"ranking": [1]})  # not to be read
        file = name if name.endswith("majority") else f"{name}_human"
        write(path / "comparisons" / f"{file}.jsonl.gz", rows(found))
    for name in ("hh_first_turn_human", "open_assistant_350_human"):
        found = [
            {"id": f"{name}-{i}", "prompt": f"Tell me of the {a} of {b}, {name}.", "user_id": None}
            for i, a, b in things(50)
        ]
        # held out, too long, and in both files
        long = "Tell me all. " + 2 * document(7, "Oslo")
        found.insert(0, {"id": "long", "prompt": long, "split": "valid"})
        write(path / "prompts" / f"{name}.jsonl", rows(found))
    return path


@pytest.fixture(scope="module")
def base(data: Path) -> Path:
    """A random Llama with a tokenizer as Llama's: it begins texts with BOS and has no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document(i, place) for i, _, place in things(20)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    path = data.parent / "base"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.2,
        )
    )
    model.lm_head.weight.data[1] *= 4  # some answers end
    model.save_pretrained(path)
    return path


def heed_run(run_dir: Path, **variables: Any) -> int:
    words = [f"--{name}={value}" for name, value in variables.items()]
    with pytest.MonkeyPatch.context() as patch:
        # stages with a thread per core crawl where other tests hold the cores
        patch.setattr("heedful.commands.run.num_cores", lambda: 1)
        return main(["run", str(RECIPE), "--run-dir", str(run_dir), *words])


@pytest.fixture(scope="module")
def run(data: Path, base: Path) -> Path:
    """The run directory of a loop that starts from the local model."""
    path = data.parent / "run"
    assert heed_run(path, data=data, base=base, **VARIABLES) == 0
    return path


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text("utf-8"))


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def stages_of(run: Path) -> set[str]:
    return {stage.parent.name for stage in run.glob("stages/*/stage.json")}


# From a local model


def test_no_base_is_trained_where_one_is_given(run: Path, summary: dict[str, Any], base: Path):
    assert stages_of(run) == LOOP
    assert {path.name for path in (run / "stages").iterdir()} == LOOP
    sizes = {row["name"]: row["parameters"] for row in summary["models"]}
    # embedding and head, 2 layers of attention (q, k, v, o), gated MLP and 2 norms, the last norm
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    vocabulary = json.loads((base / "config.json").read_text())["vocab_size"]
    assert sizes["base"] == 2 * vocabulary * 32 + 2 * layer + 32
    assert sizes["SFT"] == sizes["PPO-ptx"] == sizes["base"] + 2 * 32  # the pad token's rows
    assert sizes["reward model"] == sizes["SFT"] - (vocabulary + 1) * 32 + 32


def test_the_reward_model_stands_beside_three_baselines(run: Path, summary: dict[str, Any]):
    held_out = jsonl(run / "stages" / "reward" / "valid_scores.jsonl")
    right = count = 0.0
    for row in held_out:
        best = row["scores"][1]
        assert row["ranks"][:2] == [2, 1]
        for other in (row["scores"][0], *row["scores"][2:]):
            right += 1.0 if best > other else 0.5 * (best == other)
            count += 1
    assert 4 <= len(held_out) <= 40
    found = summary["reward_model"]
    assert found["accuracy, held-out pairs"]["value"] == pytest.approx(right / count)
    assert found["baselines"] == {
        "random": 0.5,
        "longer is better": {"value": 1.0, "low": 1.0, "high": 1.0},
        "bag of words": {"value": 1.0, "low": 1.0, "high": 1.0},
    }


def test_losses_on_held_out_text_are_those_of_transformers(
    run: Path, summary: dict[str, Any], data: Path
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (row,) = summary["tax"]
    assert {*row} == {"metric", "higher_is_better", *MODELS}
    text = gzip.decompress((data / "text" / "valid_mix.txt.gz").read_bytes()).decode()
    documents = [part.strip("\n") for part in text.split("<|endoftext|>") if part.strip()]
    num_long = 0
    for name, stage in (("PPO init", "ppo_init"), ("SFT", "sft"), ("PPO-ptx", "ppo_ptx")):
        path = run / "stages" / stage / "model"
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        total, count = 0.0, 0
        for document in documents:
            tokens = [0, *tokenizer.encode(document, add_special_tokens=False), 1]  # BOS, EOS
            num_long += len(tokens) > MAX_DOCUMENT_TOKENS
            ids = torch.tensor([tokens[:MAX_DOCUMENT_TOKENS]])
            with torch.no_grad():
                total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
        assert row[name]["value"] == pytest.approx(total / count, rel=0.01)  # may be bf16
        assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
    assert num_long


def test_scores_are_means_over_the_answers_and_differences_to_the_first(
    run: Path, summary: dict[str, Any]
):
    answers = jsonl(run / "stages" / "samples" / "completions.jsonl")
    assert len(answers) == VARIABLES["num_answered"] == len(summary["samples"])
    assert len({row["prompt_id"] for row in answers}) == len(answers)
    scores: dict[str, list[float]] = {name: [] for name in MODELS}
    for row in answers:
        for completion in row["completions"]:
            scores[completion["model"]].append(completion["score"])
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    assert [row["model"] for row in summary["score"]] == ["PPO init", "base", "SFT", "PPO-ptx"]
    for row in summary["score"]:
        mean, difference = means[row["model"]], row["minus PPO init"]
        assert row["value"] == pytest.approx(mean)
        assert difference["value"] == pytest.approx(mean - means["PPO init"])
        assert difference["low"] <= difference["value"] <= difference["high"]


def test_a_score_is_what_transformers_computes_with_the_published_reward_model(run: Path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = run / "stages" / "reward" / "model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    long, *others = jsonl(run / "stages" / "samples" / "completions.jsonl")
    num_ended = 0
    assert long["prompt_id"] == "long"
    for row in (long, others[0]):
        for completion in row["completions"]:
            if not completion["finished"]:
                assert completion["score"] == -1.0
                continue
            prompt, response = (
                tokenizer.encode(text, add_special_tokens=False)
                for text in (row["prompt"] + "\n", completion["text"])
            )
            assert (len(prompt) >= MAX_SAMPLE_PROMPT_TOKENS) == (row is long)
            prompt = prompt[-(MAX_SAMPLE_PROMPT_TOKENS - 1) :]  # the end, after BOS
            response = response[: VARIABLES["max_new_tokens"]]  # broken letters are many tokens
            with torch.no_grad():
                score = model(torch.tensor([[0, *prompt, *response, 1]])).logits
            num_ended += 1
            assert completion["score"] == pytest.approx(float(score), abs=0.15)  # may be bf16
    assert num_ended > 1


def test_the_published_policy_loads_and_generates(run: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = run / "stages" / "ppo_ptx" / "model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    inputs = tokenizer("Tell me of the river of Oslo.\n", return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model = AutoModelForCausalLM.from_pretrained(path)
    out = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 5


def test_the_report_shows_what_was_measured(run: Path):
    page = (run / "report.html").read_text("utf-8")
    for shown in (
        "loss on held-out text (nats per token)",
        "held-out pairs",
        "baseline: longer is better",
        "baseline: bag of words",
        "Score",
        "Score minus that of PPO init",
    ):
        assert shown in page, shown


# From nothing


def test_without_a_base_one_is_trained(data: Path):
    run = data.parent / "own"
    assert heed_run(run, data=data, **VARIABLES) == 0
    assert stages_of(run) == {"tokenizer", "pretrain", *LOOP}
    losses = [row["pretrain/loss"] for row in jsonl(run / "stages" / "pretrain" / "metrics.jsonl")]
    assert len(losses) == 1  # 4,096 tokens are one batch of 16 rows
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    sizes = {row["name"]: row["parameters"] for row in summary["models"]}
    assert sizes["base"] == sizes["SFT"] == sizes["PPO-ptx"]
    lineage = {row["stage"]: row["inputs"] for row in summary["lineage"]}
    assert str(run / "stages" / "pretrain" / "model") in lineage["sft"]
    assert (run / "report.html").is_file()
