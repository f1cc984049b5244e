"""TRL's PPOTrainer on the prompts of a workload: seconds by phase and response tokens of an update.

Variants: fp32; autocast (fp32 weights; the reference and the reward model, which are never trained,
in bf16); bf16 (all four networks, without fp32 masters). It reuses the sampler's log-probabilities.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as peer
from datasets import Dataset
from peer_common import clock, load, load_tokenizer, read_task, rows, trainer_settings, write_result
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl.experimental.ppo import PPOConfig, PPOTrainer

# Sequences in one forward pass of the peer's rollouts on a processor; twice as many were no faster.
# On CUDA they are all of an update, or as many of its parts as the micro-batches of a minibatch.
ROLLOUT_ROWS = 64


class Phases:
    """Seconds of generating, scoring and optimizing of every update, seen from outside: by when the
    trainer's functions are called."""

    def __init__(self, eos: int):
        self.eos = eos
        self.steps: list[dict[str, float]] = []
        self.units: list[Any] = []
        self._start = self._generated = self._scored = 0.0

    def watch(self, trainer: PPOTrainer) -> None:
        generate, whiten = peer.batch_generation, peer.masked_whiten

        def timed_generate(model: Any, queries: Any, *rest: Any, **more: Any) -> Any:
            self._start = clock()
            result = generate(model, queries, *rest, **more)
            self._generated = clock()
            ends = result[0][:, queries.shape[1] :] == self.eos
            # tokens before the first EOS, and that EOS itself
            self.units.append(((ends.cumsum(1) - ends.int()) == 0).sum())
            return result

        def timed_whiten(*arguments: Any, **more: Any) -> Any:
            result = whiten(*arguments, **more)
            self._scored = clock()  # advantages are whitened last
            return result

        def ended(*arguments: Any, **more: Any) -> None:
            self.steps.append(
                {
                    "generate": self._generated - self._start,
                    "score": self._scored - self._generated,
                    "optimize": clock() - self._scored,
                }
            )

        peer.batch_generation, peer.masked_whiten = timed_generate, timed_whiten
        trainer.log = ended  # called once an update, after the optimizer


def main() -> None:
    task = read_task()
    precision = "bf16" if "autocast" in task["variant"] else "no"
    # as ``accelerate launch --mixed_precision`` sets it: this trainer does not look at ``bf16``
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    tokenizer = load_tokenizer(task)
    tokenizer.padding_side = "left"
    prompts = [{"input_ids": tokenizer.encode(row["text"])} for row in rows(task, "prompts")]
    data = Dataset.from_list(prompts)
    # what it calls a batch on a device is a micro-batch, but never more than a minibatch
    cuts = task["parts"] * task["minibatches"] if task["parts"] > 1 else 1
    at_a_time = min(ROLLOUT_ROWS, task["episodes"])
    if task["device"] == "cuda":
        at_a_time = task["episodes"] // task["parts"]
    settings = PPOConfig(
        per_device_train_batch_size=task["episodes"] // cuts,
        gradient_accumulation_steps=cuts,
        num_mini_batches=task["minibatches"],
        num_ppo_epochs=1,
        total_episodes=task["episodes"] * task["steps"],
        local_rollout_forward_batch_size=at_a_time,
        response_length=task["max_new_tokens"],
        stop_token="eos",
        temperature=1.0,
        missing_eos_penalty=1.0,
        num_sample_generations=0,
        learning_rate=task["lr"],
        eval_strategy="no",
        **trainer_settings(task),
    )
    policy, reference = (load(AutoModelForCausalLM, task, "policy") for _ in range(2))
    scalars = AutoModelForSequenceClassification
    value, reward = (load(scalars, task, "reward_model", num_labels=1) for _ in range(2))
    if "autocast" in task["variant"]:
        reference, reward = reference.to(torch.bfloat16), reward.to(torch.bfloat16)
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data.select(range(2)),
    )
    if trainer.accelerator.mixed_precision != precision:
        raise RuntimeError(f"autocast is {trainer.accelerator.mixed_precision}, not {precision}")
    # an update for every minibatch: the trainer would make one of all, or one of every micro-batch
    trainer.accelerator.gradient_accumulation_steps = task["parts"]
    trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
    phases = Phases(tokenizer.eos_token_id)
    phases.watch(trainer)
    trainer.train()
    steps_s = [sum(step.values()) for step in phases.steps]
    units = [int(number) for number in phases.units]
    write_result(task, steps_s=steps_s, units=units, phases_s=phases.steps)


if __name__ == "__main__":
    main()
