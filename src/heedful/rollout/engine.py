"""Batched sampling over token ids with a preallocated key/value cache.

The engine knows nothing of text. Prompts of one chunk are prefilled as one flat row without
padding, once for all ``n`` samples of a prompt; then every step feeds one token per row. Rows that
have finished leave the batch: the rows at its end move into their places, so the work shrinks with
the number of rows still alive.

Shapes: B prompts times n samples, R response tokens, A rows alive, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from heedful.models.attention import Cached, KeyValueCache, Packed
from heedful.models.language_model import hidden_states
from heedful.models.output_head import Head, logits, output_head

# Finished rows stay until they are this share of the batch: moving rows costs a copy of the cache.
COMPACT_SHARE = 0.2


class Rollout(NamedTuple):
    """Responses of B * n rows; sample j of prompt i is row i * n + j."""

    tokens: Tensor  # (B * n, R) response tokens, EOS included, ``pad`` after a row's end
    logprobs: Tensor  # (B * n, R) fp32 log-probability of every token as it was sampled, then 0
    lengths: Tensor  # (B * n,) response tokens of every row, EOS included
    finished: Tensor  # (B * n,) True where the response ended with an EOS, False where it was cut

    @property
    def response_mask(self) -> Tensor:
        """(B * n, R) True at response tokens."""
        return (
            torch.arange(self.tokens.shape[1], device=self.lengths.device) < self.lengths[:, None]
        )

    def rows(self) -> list[list[int]]:
        """The response tokens of every row, without padding."""
        pairs = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        return [tokens[:length] for tokens, length in pairs]

    def contents(self) -> list[list[int]]:
        """The response tokens of every row, without padding and the EOS that ended it."""
        pairs = zip(self.rows(), self.finished.tolist(), strict=True)
        return [row[:-1] if finished else row for row, finished in pairs]


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
    """``n`` sampled responses of every prompt, and the log-probabilities of their tokens.

    A response ends with ``eos``, with any of them where they are several. temperature 0 is greedy;
    its logprobs are those at temperature 1. With top_p below 1 the logprobs are still those of the
    full distribution at that temperature, the one that PPO's ratio and KL are about. At most
    ``max_rows`` rows are decoded at a time; prompts of similar length share a chunk. Raises
    ValueError on an empty prompt or a setting out of range.
    """
    ends = (eos,) if isinstance(eos, int) else tuple(eos)
    _check(prompts, max_new_tokens, temperature, top_p, n, ends, pad)
    model.eval()
    device = model.get_input_embeddings().weight.device
    total = len(prompts) * n
    rollout = Rollout(
        torch.full((total, max_new_tokens), pad, device=device),
        torch.zeros(total, max_new_tokens, device=device),
        torch.zeros(total, dtype=torch.long, device=device),
        torch.zeros(total, dtype=torch.bool, device=device),
    )
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    step = max(1, max_rows // n)
    head = output_head(model)
    for start in range(0, len(order), step):
        chunk = order[start : start + step]
        _sample_chunk(model, head, prompts, chunk, rollout, n, temperature, top_p, ends, generator)
    longest = max(1, int(rollout.lengths.max()))
    return rollout._replace(
        tokens=rollout.tokens[:, :longest], logprobs=rollout.logprobs[:, :longest]
    )


def _sample_chunk(
    model: Any,
    head: Head,
    prompts: list[list[int]],
    chunk: Sequence[int],
    rollout: Rollout,
    n: int,
    temperature: float,
    top_p: float,
    ends: tuple[int, ...],
    generator: torch.Generator | None,
) -> None:
    """Samples the prompts of a chunk and writes their rows of ``rollout``."""
    device = rollout.tokens.device
    limit = rollout.tokens.shape[1]
    eos = torch.tensor(ends, device=device)
    lengths = [len(prompts[i]) for i in chunk]
    cache = KeyValueCache(model.config, len(chunk) * n, max(lengths) + limit, model.dtype, device)
    z = _prefill(model, head, [prompts[i] for i in chunk], cache, n)  # (A, V)
    slots = torch.tensor(lengths, device=device).repeat_interleave(n)  # (A,) slot of the next token
    target = (
        torch.tensor(chunk, device=device)[:, None] * n + torch.arange(n, device=device)
    ).flatten()
    alive = torch.ones(len(slots), dtype=torch.bool, device=device)
    for step in range(limit):
        tokens, logprobs = pick(z, temperature, top_p, generator)
        rows = target[alive]
        rollout.tokens[rows, step] = tokens[alive]
        rollout.logprobs[rows, step] = logprobs[alive]
        rollout.lengths[rows] = step + 1
        ended = torch.isin(tokens, eos)
        rollout.finished[target[alive & ended]] = True
        alive = alive & ~ended
        num_alive = int(alive.sum())
        if num_alive == 0 or step + 1 == limit:
            return
        if num_alive <= (1 - COMPACT_SHARE) * len(alive):
            tokens, slots, target = _compact(cache, alive, tokens, slots, target)
            alive = alive.new_ones(num_alive)
        layout = Cached(cache, slots)
        z = logits(head, hidden_states(model, tokens, layout))
        slots = slots + 1


def _prefill(
    model: Any, head: Head, prompts: list[list[int]], cache: KeyValueCache, n: int
) -> Tensor:
    """(A, V) logits of the first token of every row, after filling the cache with the prompts."""
    device = cache.keys.device
    layout = Packed([len(prompt) for prompt in prompts], device)
    layout.cache = cache
    layout.cache_rows = torch.arange(len(prompts), device=device) * n
    flat = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    hidden = hidden_states(model, flat, layout)
    longest = max(layout.lengths)
    for copy in range(1, n):
        cache.move_rows(layout.cache_rows, layout.cache_rows + copy, longest)
    return logits(head, hidden[layout.starts[1:] - 1]).repeat_interleave(n, dim=0)


def _compact(
    cache: KeyValueCache, alive: Tensor, tokens: Tensor, slots: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves living rows from the end of the batch into the places of finished ones."""
    num_alive = int(alive.sum())
    holes = (~alive[:num_alive]).nonzero()[:, 0]
    movers = num_alive + alive[num_alive:].nonzero()[:, 0]
    cache.move_rows(movers, holes, int(slots.max()))
    kept = []
    for values in (tokens, slots, target):
        values = values.clone()
        values[holes] = values[movers]
        kept.append(values[:num_alive])
    return kept[0], kept[1], kept[2]


def pick(
    z: Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """One token per row of logits (A, V) and its log-probability: (A,), (A,).

    Inverse-CDF sampling: one uniform number per row against the cumulative probabilities.
    """
    if temperature > 0 and temperature != 1.0:
        z = z / temperature
    normalizer = torch.logsumexp(z, dim=-1, keepdim=True)
    if temperature == 0:
        tokens = z.argmax(dim=-1)
    else:
        probabilities = torch.exp(z - normalizer)
        if top_p < 1.0:
            tokens = _nucleus(probabilities, top_p, generator)
        else:
            tokens = _inverse_cdf(probabilities, generator)
    return tokens, (z.gather(1, tokens[:, None]) - normalizer)[:, 0]


def _inverse_cdf(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    cumulative = probabilities.cumsum(dim=-1)
    uniform = torch.rand(len(cumulative), 1, generator=generator, device=cumulative.device)
    # right=True: a token of probability 0 has an empty interval and is never drawn
    tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return tokens.clamp_(max=cumulative.shape[1] - 1)[:, 0]


def _nucleus(probabilities: Tensor, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Draws among the fewest tokens whose probability reaches top_p (Holtzman et al. 2020)."""
    ordered, index = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    chosen = _inverse_cdf(ordered.masked_fill(before >= top_p, 0.0), generator)
    return index.gather(1, chosen[:, None])[:, 0]


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
