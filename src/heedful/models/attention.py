"""Attention without padding, plugged into any Hugging Face model through its attention interface.

A batch is one flat row of tokens, (1, T), whose ``position_ids`` restart at every sequence, so that
every linear layer works on real tokens only. The model is called with ``layout=`` and hands it down
to the function registered here, which knows where the sequences begin:

    Packed   training, scoring, prefill: each sequence attends to itself, causally, and to the
             sequence that it goes on from, if any: a prompt is read once for all its responses
    Cached   decoding: one new token per row attends to that row's part of a preallocated cache

Shapes: T tokens of all sequences, H heads, G key/value heads, D head size, N sequences, A rows of
a cache, S cache slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from heedful.errors import ModelError
from heedful.models.buckets import Bucket, BucketAttention, Options, bucket_sdpa, group_by_length
from heedful.models.cache import KeyValueCache
from heedful.models.device import upload
from heedful.models.varlen import Lengths, Used, can_varlen, varlen_attention, varlen_decode

NAME = "heedful"
# Rows above this length go through scaled_dot_product_attention, which never holds (L, L) weights.
MAX_MATMUL_LENGTH = 2048


class Packed:
    """Layout of sequences that stand one after another in a flat row of tokens.

    ``prefix_of`` names for every sequence the one that it goes on from, or None: it attends to all
    of that one too, and its positions continue after it. So responses share their prompt.
    """

    def __init__(self, lengths: Sequence[int], prefix_of: Sequence[int | None] | None = None):
        if not lengths or min(lengths) < 1:
            raise ValueError(
                "a packed batch needs a sequence, and every sequence at least one token"
            )
        self.lengths = list(lengths)
        self.prefix_of = [None] * len(lengths) if prefix_of is None else list(prefix_of)
        if any(p is not None and self.prefix_of[p] is not None for p in self.prefix_of):
            raise ValueError("a prefix cannot have a prefix of its own")
        self.device = torch.device("cpu")
        self.cache: KeyValueCache | None = None
        self.cache_rows: Tensor | None = None  # (N,) the cache row of every sequence

    def place(self, device: torch.device) -> None:
        """Has all tensors on a device from now on: that of the model that reads the tokens."""
        if device != self.device:
            self.device = device
            for name in ("position_ids", "row_of", "buckets", "varlen"):
                vars(self).pop(name, None)

    @cached_property
    def starts(self) -> Tensor:
        """(N + 1,) index of the first token of every sequence, and the end of the last; always on
        the processor."""
        return torch.tensor([0, *accumulate(self.lengths)])

    @cached_property
    def prefix_lengths(self) -> list[int]:
        """The tokens that stand before every sequence in its prefix; 0 where it has none."""
        return [0 if prefix is None else self.lengths[prefix] for prefix in self.prefix_of]

    @cached_property
    def longest(self) -> int:
        """The most tokens that one token attends to."""
        return max(map(sum, zip(self.lengths, self.prefix_lengths, strict=True)))

    @cached_property
    def row_of(self) -> Tensor:
        """(T,) the sequence that every token belongs to."""
        return upload(self._rows(), self.device)

    def _rows(self) -> Tensor:
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))

    @cached_property
    def position_ids(self) -> Tensor:
        """(1, T) positions that restart at every sequence, or go on from its prefix."""
        tokens = torch.arange(int(self.starts[-1]))
        first = torch.tensor(self.prefix_lengths) - self.starts[:-1]
        return upload((tokens + first[self._rows()])[None], self.device)

    @cached_property
    def varlen(self) -> Lengths:
        """The sequences' lengths for ``varlen_attention``."""
        starts, keys_at = self.starts, None
        keys = starts
        if any(self.prefix_lengths):
            parts: list[Tensor] = []
            for row, prefix in enumerate(self.prefix_of):
                for one in (row,) if prefix is None else (prefix, row):
                    parts.append(torch.arange(int(starts[one]), int(starts[one + 1])))
            keys_at = upload(torch.cat(parts), self.device)
            counts = map(sum, zip(self.lengths, self.prefix_lengths, strict=True))
            keys = torch.tensor([0, *accumulate(counts)])
        cumulative = [upload(each.to(torch.int32), self.device) for each in (starts, keys)]
        return Lengths(cumulative[0], cumulative[1], keys_at, max(self.lengths), self.longest)

    @cached_property
    def buckets(self) -> list[Bucket]:
        rows = range(len(self.lengths))
        alone = [row for row in rows if self.prefix_of[row] is None]
        going_on = [row for row in rows if self.prefix_of[row] is not None]
        groups = group_by_length(alone, self.lengths) + group_by_length(going_on, self.lengths)
        return [self._bucket(group) for group in groups]

    def _bucket(self, rows: list[int]) -> Bucket:
        queries, real = self._cells(rows)
        scatter = real.flatten().nonzero()[:, 0]
        prefixes = [prefix for row in rows if (prefix := self.prefix_of[row]) is not None]
        keys = torch.cat([self._cells(prefixes)[0], queries], dim=1) if prefixes else queries
        flat = queries.flatten()
        indices = (flat, keys.flatten(), scatter, flat[scatter])
        return Bucket(
            *(upload(index, self.device) for index in indices),
            prefix_lengths=[self.prefix_lengths[row] for row in rows],
            length=queries.shape[1],
        )

    def _cells(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """(N, L) token index of every cell of right-padded rows, and True at the real ones."""
        lengths = torch.tensor([self.lengths[row] for row in rows])[:, None]
        slots = torch.arange(int(lengths.max()))
        first = self.starts[torch.tensor(rows)][:, None]
        return first + torch.minimum(slots, lengths - 1), slots < lengths

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """(T, H, D) from q (T, H, D), k and v (T, G, D)."""
        if self.cache is not None:
            assert self.cache_rows is not None  # whoever gives a cache says where to write in it
            assert not any(self.prefix_lengths)  # rows of a cache do not share slots
            rows = self.cache_rows[self.row_of]  # (T,)
            self.cache.write(layer, rows, self.position_ids[0], k, v)
        if can_varlen(q, options):
            return varlen_attention(q, k, v, self.varlen, options)
        if q.device.type == "cpu" and self.longest <= MAX_MATMUL_LENGTH and options.is_plain:
            return BucketAttention.apply(q, k, v, self.buckets, options)
        out = torch.empty_like(q)
        for bucket in self.buckets:
            rows = bucket_sdpa(q, k, v, bucket, options)  # (N * L, H, D)
            out = out.index_copy(0, bucket.tokens, rows.index_select(0, bucket.scatter))
        return out


class Cached:
    """Layout of one new token for each of the first A rows of a cache, at that row's own slot.

    The cache has these slots: whoever decodes has reserved them.
    """

    def __init__(self, cache: KeyValueCache, slots: Tensor):
        self.cache = cache
        self.slots = slots  # (A,)
        self.rows = torch.arange(len(slots), device=slots.device)
        self._biases: dict[int | None, Tensor] = {}

    @property
    def position_ids(self) -> Tensor:
        return self.slots[None]

    def place(self, device: torch.device) -> None:
        """Nothing: the cache and its slots are where the model is."""

    def bias(self, window: int | None) -> Tensor:
        """(A, 1, 1, S) 0 where a row may look, -inf past its newest token or its window."""
        if window not in self._biases:
            slots = torch.arange(self.cache.num_slots, device=self.slots.device)
            hidden = slots > self.slots[:, None]
            if window is not None:
                hidden |= slots <= self.slots[:, None] - window
            bias = torch.zeros(hidden.shape, dtype=self.cache.dtype, device=hidden.device)
            self._biases[window] = bias.masked_fill_(hidden, float("-inf"))[:, None, None]
        return self._biases[window]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """(A, H, D) from q (A, H, D), k and v (A, G, D) of the new tokens."""
        self.cache.write(layer, self.rows, self.slots, k, v)
        count, (groups, size) = len(self.slots), k.shape[1:]
        keys, values = self.cache.keys[layer][:count], self.cache.values[layer][:count]
        if self.cache.is_by_slot:
            return varlen_decode(q, keys, values, self.used, options)
        # plain products: the fused kernels are made for many queries and take 2 to 4 times as long
        queries = q.view(count, groups, -1, size).to(self.cache.dtype) * options.scale
        scores = self._scores(queries, keys)  # (A, G, H / G, S)
        if options.softcap is not None:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        weights = torch.softmax(scores + self.bias(options.window), dim=-1)
        return torch.matmul(weights.to(values.dtype), values).view(q.shape).to(q.dtype)

    @cached_property
    def used(self) -> Used:
        """How much of every row is used."""
        return Used.of(self.slots, self.cache.num_slots)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(A, G, H / G, S) products of queries (A, G, H / G, D) and keys (A, G, D, S).

        In fp32 where that costs nothing, as the attention of training has them there.
        """
        if keys.device.type != "cuda" or keys.dtype == torch.float32:
            return torch.matmul(queries, keys)
        left, right = queries.flatten(0, 1), keys.flatten(0, 1)
        return torch.bmm(left, right, out_dtype=torch.float32).unflatten(0, keys.shape[:2])


def _attention(
    module: Any,  # an attention layer of the model, which knows its own layer_idx
    query: Tensor,  # (1, H, T, D)
    key: Tensor,  # (1, G, T, D)
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Packed | Cached | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every attention layer."""
    if layout is None:
        raise ModelError(
            f"{type(module).__name__} was called without layout=, or its model does not hand "
            "keyword arguments down to its attention: this architecture is not supported yet"
        )
    if s_aux is not None:
        raise ModelError(
            f"{type(module).__name__} uses attention sinks, which are not supported yet"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = Options(scale, dropout, sliding_window, softcap)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return layout.attend(module.layer_idx, q, k, v, options)[None], None


AttentionInterface.register(NAME, _attention)
