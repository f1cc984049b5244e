"""Our side of vs_lm_eval.py: makes the model and the peer's data, scores the items of heed eval."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import workload

from heedful.evaluation.answering import choice_logprobs, encode_items
from heedful.evaluation.items import Item, chosen, locate
from heedful.evaluation.room import Room
from heedful.evaluation.suite import Graders, find_suites, find_tasks, make_row, score_rows
from heedful.memory import tune_allocator
from heedful.models.language_model import load_language_model, load_tokenizer
from heedful.models.matmul import tune_matmul

TASKS = ("crows_pairs", "winogender", "truthfulqa_mc")
# Of the variants those that the harness asks.
VARIANTS = {"crows_pairs": "none", "winogender": "none", "truthfulqa_mc": "qa"}
CONTEXT, MAX_TOKENS = 1024, 8192


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    items = items_of(task)
    if task["do"] == "make":
        make(task, items)
    else:
        score(task, items)


def items_of(task: dict[str, Any]) -> dict[str, list[Item]]:
    """The items of every task in the harness's variant."""
    tasks = find_tasks(find_suites(["bias", "truthfulness"]), TASKS)
    found = {}
    for part in (part for group in tasks.values() for part in group):
        items = chosen(part, locate(part, Path(task["data"])), task["limit"], 0)
        found[part.name] = [item for item in items if item.variant == VARIANTS[part.name]]
    return found


def make(task: dict[str, Any], items: dict[str, list[Item]]) -> None:
    """The model directory, and the same items as rows of the harness's data sets."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    out = Path(task["out"])
    shape = workload.SHAPES[task["shape"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab_size,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for part in items.values() for i in part for text in (i.prompt, *i.choices))
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    config = workload.architecture_config("llama", shape)
    config.max_position_embeddings = CONTEXT
    config.initializer_range = 0.05  # not uniform; totals small enough for fp32 to hold 1e-4
    config.bos_token_id = config.eos_token_id = fast.eos_token_id
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(out / "model")
    fast.save_pretrained(out / "model")
    for name in ("crows_pairs", "winogender"):
        rows = [{"sent_more": i.choices[0], "sent_less": i.choices[1]} for i in items[name]]
        write(out / f"{name}.jsonl", rows)
    questions = []
    for item in items["truthfulqa_mc"]:
        row: dict[str, Any] = {"question": item.prompt.rpartition("\n\nQ: ")[2][: -len("\nA:")]}
        for kind in ("mc1", "mc2"):
            labels = item.facts[kind]
            choices = [item.choices[int(place)].removeprefix(" ") for place in labels]
            row[f"{kind}_targets"] = {"choices": choices, "labels": list(labels.values())}
        questions.append(row)
    write(out / "truthfulqa_mc.jsonl", questions)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score(task: dict[str, Any], items: dict[str, list[Item]]) -> None:
    """Seconds, log-probabilities by (prompt, choice), and the metrics of the harness."""
    tune_allocator()
    torch.set_num_threads(task["threads"])
    tune_matmul()
    path = Path(task["out"]) / "model"
    tokenizer, model = load_tokenizer(path), load_language_model(path)
    choice_logprobs(model, encode_items(items["winogender"][:4], tokenizer, None), Room(MAX_TOKENS))
    logprobs, rows = {}, {}
    seconds = cpu_s = 0.0
    for name, part in items.items():
        start, cpu_start = time.perf_counter(), time.process_time()
        found = choice_logprobs(model, encode_items(part, tokenizer, None), Room(MAX_TOKENS))
        seconds += time.perf_counter() - start
        cpu_s += time.process_time() - cpu_start
        for item, values in zip(part, found, strict=True):
            pairs = zip(item.choices, values, strict=True)
            logprobs |= {f"{item.prompt}|{choice}": value for choice, value in pairs}
        rows[name] = [
            make_row(item, "ours", name, {"logprobs": values}, 0)
            for item, values in zip(part, found, strict=True)
        ]
    result = {"seconds": seconds, "cpu_s": cpu_s, "logprobs": logprobs, "metrics": metrics(rows)}
    Path(task["result"]).write_text(json.dumps(result), encoding="utf-8")


def metrics(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Means of our scores under the harness's names."""
    tasks = find_tasks(find_suites(["bias", "truthfulness"]), TASKS)
    by_name = {part.name: part for group in tasks.values() for part in group}
    graders = Graders(toxicity=lambda texts: [None] * len(texts))
    found = {}
    for ours, column, theirs in (
        ("crows_pairs", "stereotype", "crows_pairs pct_stereotype"),
        ("winogender", "he", "winogender pct_stereotype"),
        ("truthfulqa_mc", "mc1", "truthfulqa_mc1 acc"),
        ("truthfulqa_mc", "mc2", "truthfulqa_mc2 acc"),
    ):
        values = [row["scores"][column] for row in score_rows(by_name[ours], rows[ours], graders)]
        found[theirs] = sum(values) / len(values)
    return found


if __name__ == "__main__":
    main()
