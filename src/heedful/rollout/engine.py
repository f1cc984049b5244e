"""Batched sampling over token ids with a preallocated key/value cache.

The engine knows nothing of text. Prompts are prefilled as one flat row without padding, once for
all ``n`` samples of a prompt; then every step feeds one token per row. Rows that have finished
leave the batch, and waiting prompts take their places (continuous batching): the batch stays full
as long as there are prompts, then the work shrinks with the number of rows still alive.

Shapes: B prompts times n samples, R response tokens, A rows in the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from heedful.models.attention import Packed
from heedful.models.cache import KeyValueCache
from heedful.models.device import device_of
from heedful.models.language_model import hidden_states_at
from heedful.models.output_head import logits, prepacked_head
from heedful.models.prepacked import prepacked_layers
from heedful.rollout.decoding import Decoder, Rollout, Rows, Written
from heedful.rollout.picking import Draws
from heedful.rollout.steps import STEPS_ON_ACCELERATORS, Steps

# Tokens of prompts that are read at a time: of many long ones a layer holds gigabytes.
PREFILL_TOKENS = 32768


def end_tokens(model: Any, eos: int) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's EOS, then the others the model was given.

    Chat models have several (Llama 3 lists them in its generation_config.json).
    """
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    others = [] if listed is None else [listed] if isinstance(listed, int) else listed
    return tuple(dict.fromkeys([eos, *others]))


class Generator(Protocol):
    """What the steps need of a sampler: ``sample`` below, or another engine with its signature."""

    def __call__(
        self,
        model: Any,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        eos: int | Sequence[int],
        pad: int,
        n: int = 1,
        generator: torch.Generator | None = None,
        max_rows: int = 256,
    ) -> Rollout: ...


@torch.no_grad()
def sample(
    model: Any,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    eos: int | Sequence[int],
    pad: int,
    n: int = 1,
    generator: torch.Generator | None = None,
    max_rows: int = 256,
) -> Rollout:
    """``n`` sampled responses of every prompt, and the log-probabilities of their tokens; both on
    the processor, wherever the model is.

    A response ends with ``eos``, with any of them where they are several. temperature 0 is greedy;
    its logprobs are those at temperature 1. With top_p below 1 the logprobs are still those of the
    full distribution at that temperature, the one that PPO's ratio and KL are about. At most
    ``max_rows`` rows are decoded at a time, or the ``n`` of one prompt. Raises
    ValueError on an empty prompt or a setting out of range.
    """
    ends = (eos,) if isinstance(eos, int) else tuple(eos)
    _check(prompts, max_new_tokens, temperature, top_p, n, ends, pad)
    model.eval()
    device = device_of(model)
    written = Written.none(len(prompts) * n, max_new_tokens, pad, device)
    num_rows = min(len(prompts), max(1, max_rows // n)) * n
    longest = max(map(len, prompts))
    needed = longest + max_new_tokens + STEPS_ON_ACCELERATORS
    decoder = Decoder(
        model,
        prepacked_head(model),
        KeyValueCache(model.config, num_rows, longest, model.dtype, device, needed),
        written,
        torch.tensor(ends, device=device),
        temperature,
        top_p,
    )
    draws = Draws(generator, device) if temperature > 0 else None
    with prepacked_layers(model):
        _fill(decoder, prompts, n, draws)
    return written.rollout()


def _fill(decoder: Decoder, prompts: list[list[int]], n: int, draws: Draws | None) -> None:
    """Has n responses of every prompt written down."""
    cache, device = decoder.cache, decoder.cache.device
    num_rows = cache.num_rows
    steps = Steps(decoder, num_rows, draws)
    # the longest first: late and short ones fill the gaps
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    rows = Rows.none(device)
    while True:
        if waiting and len(rows.alive) + n <= num_rows:
            count = min(len(waiting), (num_rows - len(rows.alive)) // n)
            chosen = [waiting.pop() for _ in range(count)]
            z = _read(decoder, [prompts[i] for i in chosen], n, len(rows.alive))
            new = Rows.begin(chosen, [len(prompts[i]) for i in chosen], n, device)
            decoder.write(new, z, draws and draws.next(len(new.tokens)))
            rows = rows.join(new)
        num_alive, most = rows.look()
        if num_alive == 0 and not waiting:
            break
        num_gone = len(rows.alive) - num_alive
        least_gone = steps.compact_share(bool(waiting)) * len(rows.alive)
        if num_gone > 0 and (num_alive == 0 or num_gone >= least_gone):
            rows = rows.compact(cache, num_alive, most)
            if waiting or not num_alive:
                continue
            cache.keep_rows(steps.num_decoded(num_alive))
            _, most = rows.look()
        cache.reserve(most + steps.num_steps)
        steps.run(rows)


def _read(decoder: Decoder, prompts: list[list[int]], n: int, first: int) -> Tensor:
    """(A, V) logits of the first token of new rows, after the cache got the prompts.

    They are written to n rows each, from row ``first`` on.
    """
    hidden: list[Tensor] = []
    part: list[list[int]] = []
    for prompt in prompts:
        if part and sum(map(len, part)) + len(prompt) > PREFILL_TOKENS:
            hidden.append(_prefill(decoder, part, n, first))
            first += len(part) * n
            part = []
        part.append(prompt)
    hidden.append(_prefill(decoder, part, n, first))
    return logits(decoder.head, torch.cat(hidden)).repeat_interleave(n, dim=0)


def _prefill(decoder: Decoder, prompts: list[list[int]], n: int, first: int) -> Tensor:
    """(B, D) hidden states at the ends of prompts, of one pass."""
    cache = decoder.cache
    layout = Packed([len(prompt) for prompt in prompts])
    layout.cache = cache
    layout.cache_rows = first + torch.arange(len(prompts), device=cache.device) * n
    flat = torch.tensor([token for prompt in prompts for token in prompt])
    hidden = hidden_states_at(decoder.model, flat, layout, layout.starts[1:] - 1)
    longest = max(layout.lengths)
    for copy in range(1, n):
        cache.move_rows(layout.cache_rows, layout.cache_rows + copy, longest)
    return hidden


def _check(
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    n: int,
    ends: tuple[int, ...],
    pad: int,
) -> None:
    empty = [i for i, prompt in enumerate(prompts) if not prompt]
    if not prompts or empty:
        raise ValueError(f"every prompt needs at least one token (empty: {empty[:5] or 'all'})")
    if max_new_tokens < 1 or n < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            "needed: max_new_tokens >= 1, n >= 1, temperature >= 0, 0 < top_p <= 1; found "
            f"{max_new_tokens}, {n}, {temperature}, {top_p}"
        )
    # the first EOS is the one that models learn; Qwen pads with one of its others
    if ends[0] == pad:
        raise ValueError(f"pad and EOS are both token {pad}: the pad token must differ from EOS")
