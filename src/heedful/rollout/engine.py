"""Batched sampling over token ids with a preallocated key/value cache.

The engine knows nothing of text. Prompts are prefilled as one flat row without padding, once for
all ``n`` samples of a prompt; then every step feeds one token per row. Rows that have finished
leave the batch, and waiting prompts take their places (continuous batching): the batch stays full
as long as there are prompts, then the work shrinks with the number of rows still alive.

Shapes: B prompts times n samples, R response tokens, A rows in the batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from heedful.models.attention import Cached, KeyValueCache, Packed
from heedful.models.language_model import hidden_states, hidden_states_at
from heedful.models.output_head import Head, exponentials_, logits, prepacked_head
from heedful.models.prepacked import prepacked_layers

# Finished rows stay until they are this share of the batch: moving rows costs a copy of the cache,
# and few prompts are read no faster than many.
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
    ``max_rows`` rows are decoded at a time, or the ``n`` of one prompt. Raises
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
    choose = partial(pick, temperature=temperature, top_p=top_p, generator=generator)
    with prepacked_layers(model):
        _fill(rollout, model, prompts, n, max(1, max_rows // n) * n, ends, choose)
    longest = max(1, int(rollout.lengths.max()))
    return rollout._replace(
        tokens=rollout.tokens[:, :longest], logprobs=rollout.logprobs[:, :longest]
    )


def _fill(
    rollout: Rollout,
    model: Any,
    prompts: list[list[int]],
    n: int,
    max_rows: int,
    ends: tuple[int, ...],
    choose: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> None:
    """Writes n responses of every prompt; ``choose`` picks tokens from logits."""
    device = rollout.tokens.device
    # the longest first: late and short ones fill the gaps
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    num_rows = min(len(prompts) * n, max_rows)
    longest = len(prompts[waiting[-1]])
    cache = KeyValueCache(model.config, num_rows, longest, model.dtype, device)
    head = prepacked_head(model)
    rows = _Rows.none(device)
    while True:
        if waiting and len(rows.alive) + n <= num_rows:
            count = min(len(waiting), (num_rows - len(rows.alive)) // n)
            chosen = [waiting.pop() for _ in range(count)]
            z = _prefill(model, head, [prompts[i] for i in chosen], cache, n, len(rows.alive))
            new = _Rows.begin(chosen, [len(prompts[i]) for i in chosen], n, device)
            _record(rollout, new, choose(z), ends)
            rows = rows.join(new)
        num_alive = int(rows.alive.sum())
        if num_alive == 0 and not waiting:
            break
        num_gone = len(rows.alive) - num_alive
        if num_gone > 0 and (num_alive == 0 or num_gone >= COMPACT_SHARE * len(rows.alive)):
            rows = rows.compact(cache)
            if waiting or not num_alive:
                continue
            cache.keep_rows(num_alive)
        z = logits(head, hidden_states(model, rows.tokens, Cached(cache, rows.slots)))
        rows.slots = rows.slots + rows.alive  # a finished row stays where it is
        _record(rollout, rows, choose(z), ends)


@dataclass
class _Rows:
    """The first A rows of the cache: what they are fed next, and what they are rows of."""

    tokens: Tensor  # (A,) the newest token, not in the cache yet
    slots: Tensor  # (A,) its place in the cache
    target: Tensor  # (A,) the row of the rollout
    alive: Tensor  # (A,) True where the response goes on

    @classmethod
    def none(cls, device: Any) -> _Rows:
        """No rows."""
        empty = torch.empty(0, dtype=torch.long, device=device)
        return cls(empty, empty, empty, empty.bool())

    @classmethod
    def begin(cls, chosen: Sequence[int], lengths: Sequence[int], n: int, device: Any) -> _Rows:
        """The n rows of every chosen prompt, before their first token."""
        first = torch.tensor(chosen, device=device)[:, None] * n
        target = (first + torch.arange(n, device=device)).flatten()
        slots = torch.tensor(lengths, device=device).repeat_interleave(n)
        return cls(torch.zeros_like(slots), slots, target, torch.ones_like(slots).bool())

    def join(self, new: _Rows) -> _Rows:
        """These rows, then the new ones."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return _Rows(*(torch.cat(pair) for pair in pairs))

    def compact(self, cache: KeyValueCache) -> _Rows:
        """The living rows alone: those at the end move into the places of finished ones."""
        count = int(self.alive.sum())
        holes = (~self.alive[:count]).nonzero()[:, 0]
        movers = count + self.alive[count:].nonzero()[:, 0]
        if len(movers):
            cache.move_rows(movers, holes, int(self.slots.max()))
        order = torch.arange(count, device=holes.device).index_copy(0, holes, movers)
        return _Rows(*(values[order] for values in vars(self).values()))


def _record(
    rollout: Rollout, rows: _Rows, picked: tuple[Tensor, Tensor], ends: tuple[int, ...]
) -> None:
    """Writes the picked tokens of the living rows down, and which rows end with them."""
    rows.tokens, logprobs = picked
    target, tokens = rows.target[rows.alive], rows.tokens[rows.alive]
    column = rollout.lengths[target]
    rollout.tokens[target, column] = tokens
    rollout.logprobs[target, column] = logprobs[rows.alive]
    rollout.lengths[target] = column + 1
    ended = torch.isin(rows.tokens, torch.tensor(ends, device=rows.tokens.device))
    rollout.finished[rows.target[rows.alive & ended]] = True
    rows.alive = rows.alive & ~ended & (rollout.lengths[rows.target] < rollout.tokens.shape[1])


def _prefill(
    model: Any, head: Head, prompts: list[list[int]], cache: KeyValueCache, n: int, first: int
) -> Tensor:
    """(A, V) logits of the first token of new rows, after the cache got the prompts.

    They are written to n rows each, from row ``first`` on.
    """
    device = cache.device
    layout = Packed([len(prompt) for prompt in prompts], device)
    layout.cache = cache
    layout.cache_rows = first + torch.arange(len(prompts), device=device) * n
    flat = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    hidden = hidden_states_at(model, flat, layout, layout.starts[1:] - 1)
    longest = max(layout.lengths)
    for copy in range(1, n):
        cache.move_rows(layout.cache_rows, layout.cache_rows + copy, longest)
    return logits(head, hidden).repeat_interleave(n, dim=0)


def pick(
    z: Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """One token per row of logits (A, V), which are used up, and its log-probability: (A,), (A,).

    Inverse-CDF sampling: one uniform number per row against the cumulative probabilities.
    """
    if temperature > 0 and temperature != 1.0:
        z = z / temperature
    if temperature == 0:
        tokens = z.argmax(dim=-1)
        return tokens, z.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(z, dim=-1)
    _, total = exponentials_(z)
    tokens = _nucleus(z / total, top_p, generator) if top_p < 1.0 else _inverse_cdf(z, generator)
    return tokens, (z.gather(1, tokens[:, None]) / total)[:, 0].log_()


def _inverse_cdf(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """(A,) tokens drawn in proportion to weights (A, V).

    First a block of tokens, then a token of the block: a running sum over the whole vocabulary
    takes ten times as long as its sums by block.
    """
    width = math.isqrt(weights.shape[1])
    whole = weights.shape[1] // width * width
    sums = weights[:, :whole].unflatten(1, (-1, width)).sum(-1)
    if whole < weights.shape[1]:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], dim=1)
    uniform = torch.rand(len(weights), 1, generator=generator, device=weights.device)
    block, rest = _locate(sums, uniform * sums.sum(-1, keepdim=True))
    last = weights.shape[1] - 1  # once more in the cells past it, where nothing is to be found
    tokens = (block * width + torch.arange(width, device=weights.device)).clamp_(max=last)
    return tokens.gather(1, _locate(weights.gather(1, tokens), rest)[0])[:, 0]


def _locate(weights: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """(A, 1) where point (A, 1) falls among weights (A, C) laid end to end, and how far into it.

    A weight of 0 has no room and is never found, nor is anything past the last that has some.
    Among weights that are no numbers it is the last: whoever looks at log-probabilities will see.
    """
    ends = weights.cumsum(-1)
    before_end = torch.nextafter(ends[:, -1:], torch.zeros_like(point))
    found = torch.searchsorted(ends, torch.minimum(point, before_end), right=True)
    found.clamp_(max=weights.shape[1] - 1)
    return found, (point - (ends - weights).gather(1, found)).clamp_(min=0.0)


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
