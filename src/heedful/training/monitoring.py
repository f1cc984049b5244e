"""What step 3 says about itself: the metrics of an iteration, sample responses, and warnings."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heedful.config import PPO
from heedful.data.examples import PromptTokens
from heedful.errors import TrainingError
from heedful.models.language_model import num_parameters
from heedful.rollout.experience import Experience

SAMPLES_FILE = "samples.jsonl"
# At the start policy and reference are the same model: more KL than this per token is a mistake.
START_KL_PER_TOKEN = 0.02
# Warn once when the KL estimate is below this (nats per response) for WARN_ITERATIONS in a row.
NEGATIVE_KL = -0.05
WARN_ITERATIONS = 5
LENGTH_CORRELATION = 0.5


def check_start(experience: Experience) -> None:
    """Policy and reference are the same model before the first update: KL 0 within rounding."""
    mask = experience.response_mask
    difference = ((experience.logprobs - experience.ref_logprobs).abs() * mask).sum() / mask.sum()
    if float(difference) > START_KL_PER_TOKEN:
        raise TrainingError(
            f"before the first update policy and reference differ by {float(difference):.3f} nats "
            "per token: they must be the same model (is dropout on, or did another tokenizer or "
            "template make the prompts?)"
        )


def describe(experience: Experience) -> dict[str, float]:
    """Means over the iteration's episodes."""
    mask = experience.response_mask
    lengths = mask.sum(1).float()
    tokens = mask.sum()
    returns, errors = experience.returns[mask], (experience.returns - experience.values)[mask]
    variance = float(returns.var(unbiased=False))
    explained = 1.0 - float(errors.var(unbiased=False)) / variance if variance > 0 else math.nan
    return {
        "ppo/score": float(experience.scores.mean()),
        "ppo/reward": float(experience.rewards.sum(1).mean()),
        "ppo/kl": float(experience.kl.mean()),
        "ppo/entropy": -float((experience.logprobs * mask).sum() / tokens),
        "ppo/value_explained": explained,
        "ppo/length": float(lengths.mean()),
        "ppo/finished": float(experience.finished.float().mean()),
        "ppo/score_length_correlation": _correlation(experience.scores, lengths),
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    if len(a) < 2 or float(a.std()) == 0 or float(b.std()) == 0:
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def speed(
    ppo: PPO,
    models: Any,
    experience: Experience,
    num_text_tokens: int,
    seconds: dict[str, float],
    recomputed: bool,
) -> dict[str, float]:
    """Tokens and FLOPs per second of an iteration (2ND forward, 6ND forward and backward).

    Tokens are those that the policy is updated on: the episodes once per epoch, and the pretraining
    text. The tokens of evaluation are not counted, its seconds are. ``recomputed`` says whether
    the policy read its own responses once more.
    """
    num_response = float(experience.response_mask.sum())
    num_tokens = num_response + sum(len(prompt) for prompt in experience.prompts)
    large, scalar = num_parameters(models.policy), num_parameters(models.reward_model)
    # sampling, the reference, and the policy once more; the reward model and the value function
    forward = (2 + recomputed) * large + 2 * scalar
    flops = num_tokens * (2 * forward + 6 * ppo.epochs * (large + scalar))
    flops += 6 * num_text_tokens * large
    total_s = sum(seconds.values())
    return {
        "speed/tokens_per_s": (ppo.epochs * num_tokens + num_text_tokens) / total_s,
        "speed/rollout_tokens_per_s": num_response / seconds["rollout"],
        "speed/episodes_per_s": len(experience.scores) / total_s,
        "speed/flops_per_s": flops / total_s,
    }


def write_samples(
    run_dir: Path,
    iteration: int,
    batch: Sequence[PromptTokens],
    experience: Experience,
    decode: Callable[[list[int]], str],
) -> None:
    """Appends three episodes with score and KL to samples.jsonl."""
    with (run_dir / SAMPLES_FILE).open("a", encoding="utf-8") as file:
        for i in range(min(3, len(batch))):
            row = {
                "iteration": iteration,
                "prompt": batch[i].text,
                "response": decode(experience.responses[i]),
                "score": round(float(experience.scores[i]), 4),
                "kl": round(float(experience.kl[i]), 4),
            }
            file.write(json.dumps(row) + "\n")


class Watch:
    """Warns once about each sign that a run goes wrong, and says what it means."""

    def __init__(self) -> None:
        self.negative = 0
        self.said: set[str] = set()

    def look(self, metrics: dict[str, float], iteration: int) -> None:
        self.negative = self.negative + 1 if metrics["ppo/kl"] < NEGATIVE_KL else 0
        if self.negative >= WARN_ITERATIONS:
            self._say(
                "kl",
                f"the KL estimate has been negative for {self.negative} iterations: sampled tokens "
                "are less likely under the policy than under the reference. Usual causes: a "
                "temperature or top_p that the log-probabilities do not include, or padding taken "
                "for text",
            )
        if metrics["ppo/score_length_correlation"] > LENGTH_CORRELATION:
            self._say(
                "length",
                "the score correlates with the response length by more than "
                f"{LENGTH_CORRELATION}: the reward model may pay for length",
            )

    def _say(self, key: str, text: str) -> None:
        if key not in self.said:
            self.said.add(key)
            print(f"warning: {text}", file=sys.stderr, flush=True)
