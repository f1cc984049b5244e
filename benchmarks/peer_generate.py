"""transformers' generate on the prompts of a workload: seconds and response tokens of every call.

Variants: dtype (fp32, bf16) and cache: dynamic, static, or continuous (its continuous batching).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from peer_common import load, load_tokenizer, read_task, rows, write_result
from transformers import AutoModelForCausalLM, GenerationConfig


def main() -> None:
    task = read_task()
    tokenizer = load_tokenizer(task)
    model = load(AutoModelForCausalLM, task, "policy").eval()
    texts = [row["text"] for row in rows(task, "prompts")[: task["batch_size"]]]
    prompts = [tokenizer.encode(text) for text in texts]
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=task["max_new_tokens"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    cache = task["variant"][1]
    if cache == "static":
        settings.cache_implementation = "static"
    call = continuous if cache == "continuous" else batched
    steps_s, units = [], []
    for _ in range(task["steps"]):
        start = time.perf_counter()
        units.append(call(model, prompts, settings))
        steps_s.append(time.perf_counter() - start)
    write_result(task, steps_s=steps_s, units=units)


@torch.no_grad()
def batched(model: Any, prompts: list[list[int]], settings: GenerationConfig) -> int:
    """Response tokens of one call on left-padded prompts."""
    longest, pad = max(map(len, prompts)), settings.pad_token_id
    tokens = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    output = model.generate(
        tokens, attention_mask=(tokens != pad).long(), generation_config=settings
    )
    return int((output[:, longest:] != pad).sum())


@torch.no_grad()
def continuous(model: Any, prompts: list[list[int]], settings: GenerationConfig) -> int:
    """Response tokens of one call of the library's continuous batching."""
    outputs = model.generate_batch(inputs=prompts, generation_config=settings)
    if len(outputs) != len(prompts):
        raise RuntimeError(f"{len(outputs)} of {len(prompts)} prompts were answered")
    return sum(len(output.generated_tokens) for output in outputs.values())


if __name__ == "__main__":
    main()
