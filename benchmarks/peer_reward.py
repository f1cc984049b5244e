"""TRL's RewardTrainer on every pair of the comparisons of a workload: seconds and pairs of a step.

It knows pairs alone, so a prompt with 9 ranked completions is 36 pairs, 72 forward passes.
Variants: dtype (fp32, autocast, bf16).
"""

from __future__ import annotations

from itertools import combinations

from datasets import Dataset
from peer_common import (
    StepTimes,
    load,
    load_tokenizer,
    read_task,
    rows,
    trainer_settings,
    write_result,
)
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer


def main() -> None:
    task = read_task()
    tokenizer = load_tokenizer(task)
    pairs = []
    for row in rows(task, "comparisons"):
        prompt = tokenizer.encode(row["prompt"])
        texts = [completion["text"] for completion in row["completions"]]
        responses = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
        ranked = sorted(zip(row["ranks"], responses, strict=True))
        for (_, better), (_, worse) in combinations(ranked, 2):
            pairs.append({"chosen_ids": prompt + better, "rejected_ids": prompt + worse})
    # one prompt's pairs at a time, or a part of them; the update has as many pairs as ours
    per_update = task["pairs_per_prompt"] * task["prompts_per_update"]
    most = max(1, task["pairs_per_prompt"] // task["parts"])
    at_a_time = next(number for number in range(most, 0, -1) if per_update % number == 0)
    settings = RewardConfig(
        per_device_train_batch_size=at_a_time,
        gradient_accumulation_steps=per_update // at_a_time,
        max_steps=task["steps"],
        learning_rate=task["lr"],
        **trainer_settings(task),
    )
    times = StepTimes()
    trainer = RewardTrainer(
        model=load(AutoModelForSequenceClassification, task, "reward_model", num_labels=1),
        args=settings,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[times],
    )
    trainer.train()
    write_result(task, steps_s=times.seconds, units=[per_update] * len(times.seconds))


if __name__ == "__main__":
    main()
