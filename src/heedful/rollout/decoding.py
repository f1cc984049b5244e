"""What is decoded and what has been written: rows of the cache, responses, one step of both.

Nothing in a step asks the device for a number, and all of it happens in place: the steps of an
accelerator can be queued ahead, or be played back from a graph.

Shapes: B prompts times n samples, R longest response, A rows in the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from heedful.models.attention import Cached
from heedful.models.cache import KeyValueCache
from heedful.models.language_model import hidden_states
from heedful.models.output_head import Head, logits
from heedful.rollout.picking import pick


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


class Written(NamedTuple):
    """The responses so far, on the model's device.

    The last row is of no response: rows that have ended write there, so that no step has to know
    how many they are.
    """

    tokens: Tensor  # (B * n + 1, R)
    logprobs: Tensor  # (B * n + 1, R) fp32
    lengths: Tensor  # (B * n + 1,)
    finished: Tensor  # (B * n + 1,)

    @classmethod
    def none(cls, num_rows: int, max_new_tokens: int, pad: int, device: torch.device) -> Written:
        """No tokens of ``num_rows`` responses."""
        return cls(
            torch.full((num_rows + 1, max_new_tokens), pad, device=device),
            torch.zeros(num_rows + 1, max_new_tokens, device=device),
            torch.zeros(num_rows + 1, dtype=torch.long, device=device),
            torch.zeros(num_rows + 1, dtype=torch.bool, device=device),
        )

    def rollout(self) -> Rollout:
        """What has been written, as long as the longest response."""
        lengths, finished = self.lengths[:-1].cpu(), self.finished[:-1].cpu()
        longest = max(1, int(lengths.max()))
        tokens, logprobs = (x[:-1, :longest].cpu() for x in (self.tokens, self.logprobs))
        return Rollout(tokens, logprobs, lengths, finished)


@dataclass
class Rows:
    """The first A rows of the cache: what they are fed next, and what they are rows of."""

    tokens: Tensor  # (A,) the newest token, not in the cache yet
    slots: Tensor  # (A,) its place in the cache
    target: Tensor  # (A,) the row of the rollout
    alive: Tensor  # (A,) True where the response goes on

    @classmethod
    def none(cls, device: Any, num_rows: int = 0) -> Rows:
        """No rows, or rows that have ended."""
        empty = torch.zeros(num_rows, dtype=torch.long, device=device)
        return cls(empty, empty.clone(), empty.clone(), empty.bool())

    @classmethod
    def begin(cls, chosen: Sequence[int], lengths: Sequence[int], n: int, device: Any) -> Rows:
        """The n rows of every chosen prompt, before their first token."""
        first = torch.tensor(chosen, device=device)[:, None] * n
        target = (first + torch.arange(n, device=device)).flatten()
        slots = torch.tensor(lengths, device=device).repeat_interleave(n)
        return cls(torch.zeros_like(slots), slots, target, torch.ones_like(slots).bool())

    def join(self, new: Rows) -> Rows:
        """These rows, then the new ones."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return Rows(*(torch.cat(pair) for pair in pairs))

    def look(self) -> tuple[int, int]:
        """(living rows, largest slot): the one thing that the host asks for."""
        num_alive, most = torch.stack([self.alive.sum(), self.slots.max()]).tolist()
        return num_alive, most

    def compact(self, cache: KeyValueCache, num_alive: int, most: int) -> Rows:
        """The living rows alone: those at the end move into the places of finished ones."""
        holes = (~self.alive[:num_alive]).nonzero()[:, 0]
        movers = num_alive + self.alive[num_alive:].nonzero()[:, 0]
        if len(movers):
            cache.move_rows(movers, holes, most)
        order = torch.arange(num_alive, device=holes.device).index_copy(0, holes, movers)
        return Rows(*(values[order] for values in vars(self).values()))

    def set(self, rows: Rows) -> None:
        """Becomes the given rows, in place, then rows that have ended up to its own number."""
        count = len(rows.tokens)
        for own, values in zip(vars(self).values(), vars(rows).values(), strict=True):
            own[:count] = values
            own[count:] = 0

    def first(self, count: int) -> Rows:
        """The first rows, as views."""
        return Rows(*(values[:count] for values in vars(self).values()))


class Decoder(NamedTuple):
    """A model at work on the rows of a cache, and how it chooses and ends."""

    model: Any
    head: Head
    cache: KeyValueCache
    written: Written
    ends: Tensor  # (E,) tokens that end a response
    temperature: float
    top_p: float

    def step(self, rows: Rows, uniform: Tensor | None) -> None:
        """Feeds the rows their newest tokens and writes down the next ones."""
        hidden = hidden_states(self.model, rows.tokens, Cached(self.cache, rows.slots))
        rows.slots += rows.alive  # a finished row stays where it is
        self.write(rows, logits(self.head, hidden), uniform)

    def write(self, rows: Rows, z: Tensor, uniform: Tensor | None) -> None:
        """Picks tokens from logits (A, V), writes those of the living rows down, and which end."""
        tokens, logprobs = pick(z, self.temperature, self.top_p, uniform)
        written = self.written
        nobodys, limit = len(written.tokens) - 1, written.tokens.shape[1]
        target = torch.where(rows.alive, rows.target, nobodys)
        column = written.lengths[target]
        written.tokens[target, column] = tokens
        written.logprobs[target, column] = logprobs
        written.lengths[target] = column + rows.alive
        # not torch.isin, which sorts many ends and waits for how many there are
        ended = rows.alive & (tokens[:, None] == self.ends).any(-1)
        written.finished[target] = ended
        rows.tokens.copy_(tokens)
        rows.alive &= ~ended & (column + 1 < limit)
