"""heed sample: completions of models, each alone or the best of several by a reward model."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from heedful.commands.datasets import SAMPLE_LIMITS, require_context, select_prompts
from heedful.commands.train import begin
from heedful.config import PrefixConfig, SampleConfig, SampledModel, Sampling
from heedful.data.examples import Example
from heedful.data.formats import VALID_SHARE
from heedful.data.template import Template, encode_text
from heedful.errors import ConfigError, DataError
from heedful.metrics import replacing
from heedful.models.device import placement
from heedful.models.language_model import (
    load_language_model,
    load_tokenizer,
    require_same_tokenizer,
)
from heedful.models.scalar_model import load_scalar_model
from heedful.records import Prompt
from heedful.rollout.engine import end_tokens, sample
from heedful.rollout.experience import penalize_cut
from heedful.training.budget import Budget
from heedful.training.loop import make_generator
from heedful.training.step2_reward import score_all

COMPLETIONS_FILE = "completions.jsonl"
# Prompts handed to the engine at a time, so that progress shows.
PROMPTS_PER_CALL = 128


class Sampled(NamedTuple):
    """One completion as text; ``finished`` is True where it ended by EOS or a stop text."""

    text: str
    finished: bool


def few_shot(prefix: str, prompt: str) -> str:
    """A prompt put behind a few-shot prefix, in the answer-book form the prefix is written in."""
    return f"{prefix}Task: {prompt}\nAnswer:"


def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    *,
    num_samples: int = 1,
    stop: Sequence[str] = (),
    generator: Any = None,
    rows: Budget,
) -> list[list[Sampled]]:
    """``num_samples`` completions of every tokenized prompt, as text cut at the first stop.

    ``rows`` is how many are written at a time, and remembers where these were too many.
    """
    state = None if generator is None else generator.get_state()

    def as_it_was() -> torch.Generator | None:
        if generator is not None:
            generator.set_state(state)
        return generator

    sampler = partial(
        sample,
        model,
        list(prompts),
        n=num_samples,
        eos=end_tokens(model, tokenizer.eos_token_id),
        pad=tokenizer.pad_token_id,
    )
    rollout = rows.rollout(sampler, sampling, as_it_was)
    texts = tokenizer.batch_decode(rollout.contents(), skip_special_tokens=True)
    finished = rollout.finished.tolist()
    found = [_cut(text, done, stop) for text, done in zip(texts, finished, strict=True)]
    return [found[i : i + num_samples] for i in range(0, len(found), num_samples)]


def _cut(text: str, finished: bool, stop: Sequence[str]) -> Sampled:
    ends = [at for at in (text.find(mark) for mark in stop) if at >= 0]
    if ends:
        return Sampled(text[: min(ends)].strip(), True)
    return Sampled(text.strip(), finished)


def run_sample(config: SampleConfig, resume: bool = False) -> None:
    """Writes completions.jsonl: a row per prompt with the completions of every model."""
    _require_choice(config)
    config, run_dir, progress = begin(config, resume)
    prompts = prompts_of(config.prompts, config.split, config.use, config.limit, config.valid_share)
    completions: dict[str, list[dict[str, Any]]] = {prompt.id: [] for prompt in prompts}
    total, done = len(prompts) * len(config.models), 0
    rows = Budget.of_rows(config.sampling)
    judge = None if config.reward_model is None else Judge(config.reward_model, config)
    for spec in config.models:
        tokenizer = load_tokenizer(spec.path)
        if judge is not None:
            judge.require_tokenizer_of(spec.path, tokenizer)
        model = None  # the one before makes room
        model = load_language_model(spec.path, *placement(config.compute))
        tokens = prompt_tokens(prompts, tokenizer, spec, config.max_prompt_tokens)
        lengths = (len(prompt) + config.sampling.max_new_tokens for prompt in tokens)
        require_context(lengths, model.config, spec.path, SAMPLE_LIMITS)
        generator = make_generator(config.seed, f"sample/{spec.name}")
        for start in range(0, len(prompts), PROMPTS_PER_CALL):
            part = slice(start, start + PROMPTS_PER_CALL)
            sampled = complete(
                model,
                tokenizer,
                tokens[part],
                config.sampling,
                num_samples=spec.num_samples * spec.best_of,
                stop=spec.stop,
                generator=generator,
                rows=rows,
            )
            scores = None if judge is None else judge.scores(prompts[part], sampled)
            for number, (prompt, row) in enumerate(zip(prompts[part], sampled, strict=True)):
                theirs = None if scores is None else scores[number]
                completions[prompt.id] += _completions(spec, prompt.id, row, theirs)
            done += len(sampled)
            progress(done, total)
        if spec.best_of > 1:
            print(
                f"{spec.name}: each the best of {spec.best_of} by {config.reward_model}; its KL "
                f"from single samples is at most {best_of_kl(spec.best_of):.2f} nats a response",
                file=sys.stderr,
            )
    path = run_dir / COMPLETIONS_FILE
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            row = {
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "split": prompt.split,
                "source": prompt.source,
                "use_case": prompt.use_case,
                "completions": completions[prompt.id],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _require_choice(config: SampleConfig) -> None:
    """Raises ConfigError where the best of several cannot be told, or all of them are one."""
    for spec in config.models:
        if spec.best_of > 1 and config.reward_model is None:
            raise ConfigError(
                f"{spec.name}: best_of = {spec.best_of} needs the reward model that chooses: give "
                "--reward_model=DIR"
            )
        if spec.best_of > 1 and config.sampling.temperature == 0:
            raise ConfigError(
                f"{spec.name}: best_of = {spec.best_of} chooses among equal answers at "
                "sampling.temperature 0: give a higher one"
            )


def best_of_kl(n: int) -> float:
    """log n - (n - 1) / n in nats: the KL of the best of ``n`` samples from a single one.

    Exact where no two samples can score alike, else an upper bound (Stiennon et al. 2020).
    """
    return math.log(n) - (n - 1) / n


def _completions(
    spec: SampledModel, prompt_id: str, sampled: Sequence[Sampled], scores: Sequence[float] | None
) -> list[dict[str, Any]]:
    """The rows of a prompt's completions by one model: of every ``best_of`` samples the first of
    the highest score."""
    rows = []
    for i in range(spec.num_samples):
        places = range(i * spec.best_of, (i + 1) * spec.best_of)
        best = places[0] if scores is None else max(places, key=lambda at: scores[at])
        row: dict[str, Any] = {
            "id": _completion_id(prompt_id, spec.name, i),
            "text": sampled[best].text,
            "model": spec.name,
            "finished": sampled[best].finished,
        }
        if scores is not None:
            row["score"] = scores[best]
        if spec.best_of > 1:
            row |= {"best_of": spec.best_of, "kl_at_most": round(best_of_kl(spec.best_of), 4)}
        rows.append(row)
    return rows


def _completion_id(prompt_id: str, model: str, number: int) -> str:
    """An id that says nothing of the model: labelers may see it."""
    return hashlib.sha256(f"{prompt_id}/{model}/{number}".encode()).hexdigest()[:16]


def prompts_of(
    paths: Sequence[str],
    split: str | None,
    use: str | None,
    limit: int | None,
    valid_share: float = VALID_SHARE,
) -> list[Prompt]:
    """The prompts of files, each once, at most ``limit``; DataError where there is none."""
    found = select_prompts(paths, split, use, valid_share)
    if not found:
        chosen = {"split": split, "use": use}
        said = " and ".join(f"{name} = {value!r}" for name, value in chosen.items() if value)
        raise DataError(f"{', '.join(paths)}: no prompt{said and f' with {said}'}")
    once = {prompt.id: prompt for prompt in reversed(found)}  # a prompt may stand in two files
    return [prompt for prompt in found if once.get(prompt.id) is prompt][:limit]


def prompt_tokens(
    prompts: Sequence[Prompt], tokenizer: Any, spec: SampledModel, limit: int
) -> list[list[int]]:
    """Token ids of prompts in the model's template or behind its few-shot prefix; ends are kept."""
    if spec.prefix is None:
        template = Template.of_model(Path(spec.path), tokenizer)
        return [_fitted(prompt, template, limit) for prompt in prompts]
    file = Path(spec.prefix)
    if not file.is_file():
        raise DataError(f"{file} does not exist: run heed prefix to choose a few-shot prefix")
    prefix = json.loads(file.read_text(encoding="utf-8"))["text"]
    return [encode_text(tokenizer, few_shot(prefix, prompt.text), limit) for prompt in prompts]


def _fitted(prompt: Prompt, template: Template, limit: int) -> list[int]:
    """The prompt's tokens; of a longer one the longest end that fits, as the template has it."""
    tokens = template.encode_prompt(prompt.text)
    return tokens if len(tokens) <= limit else template.keep_end(prompt.text, limit)


class Judge:
    """A reward model that scores answers to the bare prompts (no few-shot prefix is judged)."""

    def __init__(self, path: str, config: SampleConfig | PrefixConfig):
        self.path = path
        self.tokenizer = load_tokenizer(path)
        self.model = load_scalar_model(path, *placement(config.compute))
        self.template = Template.of_model(Path(path), self.tokenizer)
        self.config, self.budget = config, Budget.of_tokens(config.compute)

    def require_tokenizer_of(self, path: str, tokenizer: Any) -> None:
        """Raises ModelError unless the model of a directory has the reward model's tokenizer."""
        require_same_tokenizer(tokenizer, self.tokenizer, (path, self.path))

    def scores(
        self, prompts: Sequence[Prompt], sampled: Sequence[Sequence[Sampled]]
    ) -> list[list[float]]:
        """What every answer is worth, by prompt; long prompts are cut as they were for the model.

        The reward model reads the answers that ended; the others have the score of a cut one.
        Broken characters take more tokens as text than they took when sampled: the answer's limit
        holds here too, before EOS.
        """
        examples = []
        for prompt, rows in zip(prompts, sampled, strict=True):
            tokens = _fitted(prompt, self.template, self.config.max_prompt_tokens)
            for row in (row for row in rows if row.finished):
                *response, eos = self.template.encode_response(row.text)
                kept = response[: self.config.sampling.max_new_tokens]
                examples.append(Example(tokens, [*kept, eos]))
        lengths = (len(example.prompt) + len(example.response) for example in examples)
        require_context(lengths, self.model.config, self.path, SAMPLE_LIMITS)
        finished = torch.tensor([row.finished for rows in sampled for row in rows])
        scores = torch.zeros(len(finished))
        scores[finished] = self.budget.run(partial(score_all, self.model, examples))
        worth = iter(penalize_cut(scores, finished).tolist())
        return [[round(next(worth), 5) for _ in rows] for rows in sampled]
