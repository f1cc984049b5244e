"""TRL's SFTTrainer on the demonstrations of a workload: seconds and real tokens of every step.

Variants: dtype (fp32, autocast, bf16) and packing (unpacked, wrapped, bfd). "wrapped" cuts examples
where a row ends and lets them see each other; "bfd" keeps them whole and apart. "bfd" lays its rows
out as one long row: flash_attn works on its parts alone, every other attention on all of it, behind
a mask. So on CUDA such a row is kept short.
"""

from __future__ import annotations

import math
from typing import Any

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
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

ROW_TOKENS = 512  # of a packed row
MASKED_TOKENS = 8192  # of the one long row, at most


def main() -> None:
    task = read_task()
    tokenizer = load_tokenizer(task)
    examples = []
    for row in rows(task, "demonstrations"):
        prompt, response = tokenizer.encode(row["prompt"]), tokenizer.encode(row["response"])
        response.append(tokenizer.eos_token_id)
        mask = [0] * len(prompt) + [1] * len(response)
        examples.append({"input_ids": prompt + response, "completion_mask": mask})
    batch_size, packing, parts = task["batch_size"], task["variant"][1], task["parts"]
    if packing != "unpacked":
        mean = sum(len(example["input_ids"]) for example in examples) / len(examples)
        batch_size = max(1, round(batch_size * mean / ROW_TOKENS))  # as many tokens as unpacked
    if packing == "bfd" and task["device"] == "cuda" and "flash" not in task["variant"]:
        parts = max(parts, math.ceil(batch_size * ROW_TOKENS / MASKED_TOKENS))
    settings = SFTConfig(
        per_device_train_batch_size=max(1, batch_size // parts),
        gradient_accumulation_steps=parts,
        max_steps=task["steps"],
        learning_rate=task["lr"],
        packing=packing != "unpacked",
        packing_strategy="bfd" if packing == "unpacked" else packing,
        max_length=ROW_TOKENS,
        completion_only_loss=True,
        **trainer_settings(task),
    )
    times = StepTimes()
    trainer = SFTTrainer(
        model=load(AutoModelForCausalLM, task, "policy"),
        args=settings,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        callbacks=[times],
    )
    units: list[list[Any]] = [[] for _ in range(task["steps"])]
    step = trainer.training_step

    def counted(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        count = (inputs["input_ids"] != tokenizer.pad_token_id).sum()  # of a micro-batch
        units[len(times.seconds)].append(count)
        return step(model, inputs, *rest, **more)

    trainer.training_step = counted
    trainer.train()
    write_result(task, steps_s=times.seconds, units=[sum(map(int, counts)) for counts in units])


if __name__ == "__main__":
    main()
