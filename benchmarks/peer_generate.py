"""transformers' generate on the prompts of a workload: seconds and response tokens of every call.

Variants: dtype (fp32, bf16) and cache: dynamic, static, or continuous (its continuous batching).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peer_common import load, load_tokenizer, read_task, rows, write_result
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import ContinuousBatchingConfig

# Tokens in a page of the cache of continuous batching. It gets the pages that it can use: on a
# processor it would take most of the machine's memory by itself, and touch all of it.
PAGE_TOKENS = 128

# One call for all prompts; returns the response tokens.
Call = Callable[[], int]


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
    steps_s, units = [], []
    with (continuous if cache == "continuous" else batched)(model, prompts, settings) as call:
        for _ in range(task["steps"]):
            start = time.perf_counter()
            units.append(call())
            steps_s.append(time.perf_counter() - start)
    write_result(task, steps_s=steps_s, units=units)


@contextmanager
def batched(model: Any, prompts: list[list[int]], settings: GenerationConfig) -> Iterator[Call]:
    """generate on left-padded prompts."""
    longest, pad = max(map(len, prompts)), settings.pad_token_id
    tokens = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = (tokens != pad).long()

    def call() -> int:
        output = model.generate(tokens, attention_mask=mask, generation_config=settings)
        return int((output[:, longest:] != pad).sum())

    yield call


@contextmanager
def continuous(model: Any, prompts: list[list[int]], settings: GenerationConfig) -> Iterator[Call]:
    """The library's continuous batching; its thread starts once, before the first call."""
    longest = max(map(len, prompts)) + settings.max_new_tokens
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
