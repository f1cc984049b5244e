"""transformers' generate on the prompts of a workload: seconds and response tokens of every call.

Variants: dtype (fp32, bf16) and cache: dynamic, static, or continuous (its continuous batching).
On CUDA a static cache makes transformers compile the model, in the first call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peer_common import clock, load, load_tokenizer, read_task, rows, write_result
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import ContinuousBatchingConfig

# Tokens in a page of the cache of continuous batching. It gets the pages that it can use: on a
# processor it would take most of the machine's memory by itself, and touch all of it. On CUDA it
# chooses all sizes itself.
PAGE_TOKENS = 128

# One call for all prompts; returns the response tokens, maybe on a device that still counts them.
Call = Callable[[], Any]


def main() -> None:
    task = read_task()
    tokenizer = load_tokenizer(task)
    model = load(AutoModelForCausalLM, task, "policy").eval().to(task["device"])
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
    steps_s, units = [], []
    with (continuous if cache == "continuous" else batched)(model, prompts, settings) as call:
        for _ in range(task["steps"]):
            start = clock()
            units.append(call())
            steps_s.append(clock() - start)
    write_result(task, steps_s=steps_s, units=[int(number) for number in units])


@contextmanager
def batched(model: Any, prompts: list[list[int]], settings: GenerationConfig) -> Iterator[Call]:
    """generate on left-padded prompts."""
    longest, pad = max(map(len, prompts)), settings.pad_token_id
    tokens = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    tokens = tokens.to(model.device)
    mask = (tokens != pad).long()

    def call() -> torch.Tensor:
        output = model.generate(tokens, attention_mask=mask, generation_config=settings)
        return (output[:, longest:] != pad).sum()

    yield call


@contextmanager
def continuous(model: Any, prompts: list[list[int]], settings: GenerationConfig) -> Iterator[Call]:
    """The library's continuous batching; its thread starts once, before the first call."""
    longest = max(map(len, prompts)) + settings.max_new_tokens
    sizes = ContinuousBatchingConfig()
    if model.device.type == "cpu":
        sizes = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=len(prompts) * math.ceil(longest / PAGE_TOKENS) + 1,
            max_batch_tokens=sum(map(len, prompts)),
        )
    with model.continuous_batching_context_manager(
        generation_config=settings, continuous_batching_config=sizes
    ) as manager:

        def call() -> int:
            waiting = len(manager.add_requests(prompts, max_new_tokens=settings.max_new_tokens))
            num_tokens = 0
            while waiting:
                result = manager.get_result(timeout=1)
                if result is None and not manager.is_running():
                    raise RuntimeError("continuous batching has ended before its requests")
                if result is not None and result.is_finished():
                    num_tokens += len(result.generated_tokens)
                    waiting -= 1
            return num_tokens

        yield call


if __name__ == "__main__":
    main()
