"""heed prefix: the few-shot prefix under which a base model answers best (GPT-3-prompted).

In the paper two people searched for an hour each, and of their best prefixes the reward model's
score on validation prompts chose one. Candidates here are written by people, drawn out of
demonstrations, or both; all answer the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.commands.datasets import SAMPLE_LIMITS, require_context
from heedful.commands.sample import Judge, complete, few_shot, prompts_of
from heedful.commands.train import begin
from heedful.config import PrefixConfig
from heedful.data.formats import read_demonstrations
from heedful.data.template import encode_text
from heedful.errors import DataError
from heedful.evaluation.items import read_lines
from heedful.metrics import replacing
from heedful.models.device import placement
from heedful.models.language_model import load_language_model, load_tokenizer
from heedful.records import Prompt
from heedful.statistics.intervals import bootstrap, paired_difference
from heedful.training.budget import Budget
from heedful.training.loop import derive_seed, make_generator

PREFIX_FILE = "prefix.json"
ANSWERS_FILE = "answers.jsonl"
# The prompt alone in the form of the answer book: what a prefix is worth shows against it.
BARE = "no prefix"
# Examples of a drawn prefix take at most this share of the tokens that a prompt may have.
EXAMPLE_SHARE = 0.5


def run_prefix(config: PrefixConfig, resume: bool = False) -> None:
    """Writes prefix.json, the candidate whose answers score best, and all answers."""
    config, run_dir, progress = begin(config, resume)
    tokenizer = load_tokenizer(config.model)
    judge = Judge(config.reward_model, config)
    judge.require_tokenizer_of(config.model, tokenizer)
    model = load_language_model(config.model, *placement(config.compute))
    prompts = prompts_of(config.prompts, "valid", config.use, config.num_prompts)
    candidates = written(config) | drawn(config, tokenizer)
    if not candidates:
        raise DataError("there is no candidate prefix: give prefixes, or demonstrations")
    scores: dict[str, list[float]] = {}
    rows = Budget.of_rows(config.sampling)
    with replacing(run_dir / ANSWERS_FILE) as partial, partial.open("w", encoding="utf-8") as file:
        for number, (name, prefix) in enumerate({BARE: "", **candidates}.items()):
            texts = [few_shot(prefix, prompt.text) for prompt in prompts]
            tokens = [encode_text(tokenizer, text, config.max_prompt_tokens) for text in texts]
            lengths = (len(text) + config.sampling.max_new_tokens for text in tokens)
            require_context(lengths, model.config, config.model, SAMPLE_LIMITS)
            generator = make_generator(config.seed, "prefix")
            stop, sampling = config.stop, config.sampling
            sampled = complete(
                model, tokenizer, tokens, sampling, stop=stop, generator=generator, rows=rows
            )
            scores[name] = [score for row in judge.scores(prompts, sampled) for score in row]
            for prompt, (answer,), score in zip(prompts, sampled, scores[name], strict=True):
                row = {"prefix": name, "prompt_id": prompt.id, "text": answer.text, "score": score}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            progress(number + 1, len(candidates) + 1)
    found = summary(scores, candidates, prompts, config.seed)
    with replacing(run_dir / PREFIX_FILE) as partial:
        partial.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    print(describe(found), flush=True)


def written(config: PrefixConfig) -> dict[str, str]:
    """{id: text} of the candidates in the file of the settings; empty without one.

    Raises DataError naming the line of a candidate that has no id or text, or another's id.
    """
    if config.prefixes is None:
        return {}
    found: dict[str, str] = {}
    for where, row in read_lines(Path(config.prefixes)):
        name, text = (row.get("id"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str) or name in {*found, BARE}:
            raise DataError(
                f"{where}: a prefix has an id of its own and a text: write "
                '{"id": "...", "text": "..."}'
            )
        found[name] = text
    if not found:
        raise DataError(f"{config.prefixes} holds no candidate prefix")
    return found


def drawn(config: PrefixConfig, tokenizer: Any) -> dict[str, str]:
    """{"drawn 1": text, ...}: demonstrations of the train split in the answer book's form.

    Those whose response would be taken for more than one answer, or that are too long, are left
    out. Raises DataError where fewer than ``shots`` remain.
    """
    if not config.demonstrations:
        return {}
    longest = int(EXAMPLE_SHARE * config.max_prompt_tokens / config.shots)
    examples = []
    for path in config.demonstrations:
        for row in read_demonstrations(path):
            text = f"{few_shot('', row.prompt)} {row.response.strip()}\n\n"
            is_one = not any(mark in row.response.strip() for mark in config.stop)
            if row.split == "train" and is_one and len(encode_text(tokenizer, text)) <= longest:
                examples.append(text)
    examples = list(dict.fromkeys(examples))
    if len(examples) < config.shots:
        raise DataError(
            f"{', '.join(config.demonstrations)}: {len(examples):,} demonstrations of the train "
            f"split fit {longest:,} tokens each and hold no stop text, and a prefix has "
            f"{config.shots}: lower shots, or raise max_prompt_tokens"
        )
    found = {}
    for number in range(1, config.num_drawn + 1):
        rng = np.random.default_rng(derive_seed(config.seed, "prefix/draw", number))
        places = rng.choice(len(examples), config.shots, replace=False)
        found[f"drawn {number}"] = "".join(examples[place] for place in places)
    return found


def summary(
    scores: Mapping[str, Sequence[float]],
    candidates: Mapping[str, str],
    prompts: Sequence[Prompt],
    seed: int,
) -> dict[str, Any]:
    """The best candidate with its text; the mean score of each, and how far it is behind the best.

    95 % intervals are over the prompts, and paired: all candidates answered the same ones. That of
    the best is a little too high, as the best of several always is.
    """
    ids = [prompt.id for prompt in prompts]
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    best = max(candidates, key=lambda name: means[name])

    def behind(name: str) -> dict[str, float | None]:
        return paired_difference(scores[name], scores[best], ids, seed=seed).to_row()

    return {
        "id": best,
        "score": means[best],
        "text": candidates[best],
        "scores": {name: means[name] for name in candidates},
        "intervals": {n: bootstrap(scores[n], ids, seed=seed).to_row() for n in scores},
        "less_the_best": {name: behind(name) for name in scores if name != best},
        "num_prompts": len(prompts),
    }


def describe(found: Mapping[str, Any]) -> str:
    """The candidates from the best on, in lines for a terminal."""
    names = sorted(found["intervals"], key=lambda name: -found["intervals"][name]["value"])
    width = max(map(len, names))
    lines = [f"mean score of the answers to {found['num_prompts']:,} validation prompts"]
    for name in names:
        line = f"{name:<{width}}  {_text(found['intervals'][name])}"
        if name == found["id"]:
            line += "  chosen"
        else:
            line += f"  {_text(found['less_the_best'][name])} against it"
        lines.append(line)
    return "\n".join(lines)


def _text(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['value']:+.3f}"
    return f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
