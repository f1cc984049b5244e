"""What heed ppo measures of the policy while it trains, by the settings of its group ``eval``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heedful.commands.asked import asked_of
from heedful.commands.datasets import ROLLOUT_LIMITS, load_prompts, require_context
from heedful.config import EvalConfig, PPOConfig, Sampling
from heedful.data.bad_rows import BadRows
from heedful.data.examples import PromptTokens
from heedful.data.formats import read_text
from heedful.data.template import Template
from heedful.errors import ConfigError
from heedful.evaluation.answering import context_of
from heedful.evaluation.evaluators import suite_measures, text_loss
from heedful.evaluation.items import chosen
from heedful.models.device import tokens_at_a_time
from heedful.rollout.decoding import Rollout
from heedful.rollout.engine import end_tokens, sample
from heedful.training import step3_ppo
from heedful.training.budget import Budget
from heedful.training.evaluations import Evaluator
from heedful.training.monitoring import describe

# The setting's names and the metrics that they become.
ANSWER_METRICS = {
    "score": "valid/score",
    "kl": "valid/kl",
    "length": "valid/length",
    "finished": "valid/finished",
    "entropy": "valid/entropy",
}


def evaluators_of(
    config: PPOConfig,
    models: step3_ppo.Models,
    tokenizer: Any,
    template: Template,
    bad: BadRows,
) -> list[Evaluator]:
    """The evaluators that the settings ask for; all that they read is read here."""
    wanted = config.eval
    if not config.eval_every:
        if wanted.text or wanted.suites:
            raise ConfigError("eval.text and eval.suites need eval_every: give --eval_every=N")
        return []
    found: list[Evaluator] = []
    if wanted.measures:
        found.append(_answers(config, models, tokenizer, template, bad))
    if wanted.text:
        found.append(_text(config, models.policy, tokenizer, bad))
    if wanted.suites:
        found.append(_suites(config, models.policy, tokenizer))
    if not found:
        raise ConfigError(
            "eval_every has nothing to measure: give eval.measures, eval.text or eval.suites"
        )
    return found


def _answers(
    config: PPOConfig,
    models: step3_ppo.Models,
    tokenizer: Any,
    template: Template,
    bad: BadRows,
) -> Evaluator:
    """Measures samples for validation prompts as step 3 measures its episodes.

    Always with the same random numbers. Raises DataError where prompt and sample may not fit the
    context of the policy or of the reward model.
    """
    prompts = _some(load_prompts(config.data, template, "valid", bad), config.eval.prompts)
    if not prompts:
        raise ConfigError(
            "eval_every needs data.prompts with prompts of the valid split, or eval.measures = []"
        )
    for reader, path in (
        (models.policy, config.policy),
        (models.reward_model, config.reward_model),
    ):
        lengths = (len(prompt.tokens) + config.sampling.max_new_tokens for prompt in prompts)
        require_context(lengths, reader.config, path, ROLLOUT_LIMITS)

    rows, tokens = Budget.of_rows(config.sampling), Budget.of_tokens(config.compute)

    def measure(policy: Any) -> dict[str, float]:
        rollout = answers(policy, prompts, config.sampling, config.seed, rows, tokenizer)
        kl_coef = config.ppo.kl_coef
        experience = tokens.run(
            partial(step3_ppo.collect, config, models, prompts, rollout, kl_coef)
        )
        found = describe(experience)
        return {ANSWER_METRICS[name]: found[f"ppo/{name}"] for name in config.eval.measures}

    return measure


def answers(
    model: Any,
    prompts: Sequence[PromptTokens],
    sampling: Sampling,
    seed: int,
    rows: Budget,
    tokenizer: Any,
) -> Rollout:
    """The responses to validation prompts, by the same random numbers every time."""
    sampler = partial(
        sample,
        model,
        [prompt.tokens for prompt in prompts],
        eos=end_tokens(model, tokenizer.eos_token_id),
        pad=tokenizer.pad_token_id,
    )
    return rows.rollout(sampler, sampling, lambda: torch.Generator().manual_seed(seed))


def _some(prompts: Sequence[PromptTokens], num: int | None) -> list[PromptTokens]:
    """At most so many, chosen by a hash of their ids: more of the same where ``num`` is raised."""

    def place(prompt: PromptTokens) -> str:
        return hashlib.sha256(prompt.prompt_id.encode()).hexdigest()

    return list(prompts) if num is None else sorted(prompts, key=place)[:num]


def _text(config: PPOConfig, policy: Any, tokenizer: Any, bad: BadRows) -> Evaluator:
    documents: list[str] = []
    for text in read_text(config.eval.text, bad=bad):
        documents.append(text)
        if len(documents) == config.eval.documents:
            break
    context = context_of(policy.config)
    longest = config.eval.document_tokens
    return text_loss(
        documents,
        tokenizer,
        max_tokens=tokens_at_a_time(config.compute),
        # the last token is predicted and not read
        document_tokens=longest if context is None else min(longest, context + 1),
    )


def _suites(config: PPOConfig, policy: Any, tokenizer: Any) -> Evaluator:
    from heedful.commands.graders import load_graders

    wanted = config.eval
    if wanted.data is None:
        raise ConfigError("eval.suites needs eval.data, the directory of the published files")
    found = asked_of(wanted.suites, Path(wanted.data))
    for line in found.left_out:
        _say_left_out(line)
    tasks = [task for task, _ in found.tasks]
    graders, _ = load_graders(EvalConfig(run_dir=config.run_dir, data=wanted.data), tasks)
    return suite_measures(
        [(task, chosen(task, paths, wanted.limit, 0)) for task, paths in found.tasks],
        policy.config,
        tokenizer,
        graders,
        max_tokens=tokens_at_a_time(config.compute),
        needed=found.named,
        say=_say_left_out,
    )


def _say_left_out(line: str) -> None:
    print(f"left out: {line}", file=sys.stderr)
