"""Attention without padding, plugged into any Hugging Face model through its attention interface.

A batch is one flat row of tokens, (1, T), whose ``position_ids`` restart at every sequence, so that
every linear layer works on real tokens only. The model is called with ``layout=`` and hands it down
to the function registered here, which knows where the sequences begin:

    Packed   training, scoring, prefill: each sequence attends to itself, causally, and to the
             sequence that it goes on from, if any: a prompt is read once for all its responses
    Cached   decoding: one new token per row attends to that row's part of a preallocated cache

Shapes: T tokens of all sequences, H heads, G key/value heads, D head size, N rows, L longest row,
P longest prefix, S cache slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from heedful.errors import ModelError

NAME = "heedful"
# Rows above this length go through scaled_dot_product_attention, which never holds (L, L) weights.
MAX_MATMUL_LENGTH = 2048
# Attention weights of rows up to this length are kept for the backward pass, others made again:
# they grow with the square of the length.
MAX_KEPT_LENGTH = 512
# A bucket takes rows down to this share of its longest row: few buckets, little padding.
BUCKET_RATIO = 0.8
MIN_BUCKET_ROWS = 8
# By how many slots a cache grows: attention looks at all of them, and growing copies the cache.
SLOTS_AT_A_TIME = 16


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, as indices that gather them into right-padded rows.

    The keys of a row are its prefix in P cells (none where P is 0), then its own tokens. Cells past
    an end repeat the last real token; nothing that is real looks at them.
    """

    queries: Tensor  # (N * L,) token index of every cell
    keys: Tensor  # (N * (P + L),) token index of every cell
    scatter: Tensor  # (tokens,) query cells that hold real tokens
    tokens: Tensor  # (tokens,) their token indices
    prefix_lengths: list[int]  # of every row
    length: int
    biases: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.prefix_lengths)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(N, 1, L, P + L) 0 where a query sees a key, -inf where not; (1, ...) if rows agree."""
        if (window, dtype) not in self.biases:
            device = self.queries.device
            same = len(set(self.prefix_lengths)) == 1
            prefixes = torch.tensor(self.prefix_lengths[: 1 if same else None], device=device)
            before = torch.arange(max(self.prefix_lengths), device=device)
            own = prefixes[:, None] + torch.arange(self.length, device=device)  # (N, L) positions
            # a cell past its prefix's end comes after every query
            ends = torch.where(before < prefixes[:, None], before, own[:, -1:] + 1)
            ahead = torch.cat([ends, own], dim=1)[:, None]
            distance = own[:, :, None] - ahead  # query minus key, (N, L, P + L)
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self.biases[window, dtype] = bias.masked_fill_(hidden, float("-inf"))[:, None]
        return self.biases[window, dtype]


class KeyValueCache:
    """Keys (rows, G, D, S) and values (rows, G, S, D) of every layer.

    Keys lie with their slots side by side, as the product of one query with all of them reads them.
    There are hardly more slots than are used, ``reserve`` adds some: a product over a part of
    the slots would copy that part first. A layer's tensors are its own, so that no more than one
    is there twice while the cache grows.
    """

    def __init__(self, config: Any, rows: int, slots: int, dtype: torch.dtype, device: Any = "cpu"):
        text_config = config.get_text_config()
        heads = text_config.num_attention_heads
        groups = getattr(text_config, "num_key_value_heads", None) or heads
        size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        self.dtype, self.device = dtype, torch.device(device)
        self.num_rows, self.num_slots = rows, slots
        layers = range(text_config.num_hidden_layers)
        shapes = ((rows, groups, size, slots), (rows, groups, slots, size))
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in layers] for shape in shapes
        )

    def write(self, layer: int, rows: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Puts k and v (T, G, D) of T tokens into their rows (T,) and slots (T,)."""
        self.keys[layer][rows, :, :, slots] = k.to(self.dtype)
        self.values[layer][rows, :, slots] = v.to(self.dtype)

    def reserve(self, slots: int) -> None:
        """Makes room for ``slots`` slots and some more, unless it is there; drops other rows."""
        if slots > self.num_slots:
            more = -(-(slots - self.num_slots) // SLOTS_AT_A_TIME) * SLOTS_AT_A_TIME
            self.num_slots += more
            for layer in range(len(self.keys)):
                keys, values = self.keys[layer], self.values[layer]
                self.keys[layer] = F.pad(keys[: self.num_rows], (0, more))
                self.values[layer] = F.pad(values[: self.num_rows], (0, 0, 0, more))

    def keep_rows(self, rows: int) -> None:
        """Says that the first ``rows`` rows are all that is needed from now on."""
        self.num_rows = min(self.num_rows, rows)

    def move_rows(self, source: Tensor, target: Tensor, used: int) -> None:
        """Copies the first ``used`` slots of rows ``source`` over rows ``target``."""
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[target, ..., :used] = keys[source, ..., :used]
            values[target, :, :used] = values[source, :, :used]


class Packed:
    """Layout of sequences that stand one after another in a flat row of tokens.

    ``prefix_of`` names for every sequence the one that it goes on from, or None: it attends to all
    of that one too, and its positions continue after it. So responses share their prompt.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: Any = "cpu",
        prefix_of: Sequence[int | None] | None = None,
    ):
        if not lengths or min(lengths) < 1:
            raise ValueError(
                "a packed batch needs a sequence, and every sequence at least one token"
            )
        self.lengths = list(lengths)
        self.device = device
        self.prefix_of = [None] * len(lengths) if prefix_of is None else list(prefix_of)
        if any(p is not None and self.prefix_of[p] is not None for p in self.prefix_of):
            raise ValueError("a prefix cannot have a prefix of its own")
        self.cache: KeyValueCache | None = None
        self.cache_rows: Tensor | None = None  # (N,) the cache row of every sequence

    @cached_property
    def starts(self) -> Tensor:
        """(N + 1,) index of the first token of every sequence, and the end of the last."""
        ends = torch.tensor(self.lengths, device=self.device).cumsum(0)
        return F.pad(ends, (1, 0))

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
        rows = torch.arange(len(self.lengths), device=self.device)
        return rows.repeat_interleave(torch.tensor(self.lengths, device=self.device))

    @cached_property
    def position_ids(self) -> Tensor:
        """(1, T) positions that restart at every sequence, or go on from its prefix."""
        tokens = torch.arange(int(self.starts[-1]), device=self.device)
        first = torch.tensor(self.prefix_lengths, device=self.device) - self.starts[:-1]
        return (tokens + first[self.row_of])[None]

    @cached_property
    def buckets(self) -> list[Bucket]:
        rows = range(len(self.lengths))
        alone = [row for row in rows if self.prefix_of[row] is None]
        going_on = [row for row in rows if self.prefix_of[row] is not None]
        groups = _group_by_length(alone, self.lengths) + _group_by_length(going_on, self.lengths)
        return [self._bucket(group) for group in groups]

    def _bucket(self, rows: list[int]) -> Bucket:
        queries, real = self._cells(rows)
        scatter = real.flatten().nonzero()[:, 0]
        prefixes = [prefix for row in rows if (prefix := self.prefix_of[row]) is not None]
        keys = torch.cat([self._cells(prefixes)[0], queries], dim=1) if prefixes else queries
        flat = queries.flatten()
        return Bucket(
            flat,
            keys.flatten(),
            scatter,
            flat[scatter],
            [self.prefix_lengths[row] for row in rows],
            queries.shape[1],
        )

    def _cells(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """(N, L) token index of every cell of right-padded rows, and True at the real ones."""
        index = torch.tensor(rows, device=self.device)
        lengths = torch.tensor([self.lengths[row] for row in rows], device=self.device)[:, None]
        slots = torch.arange(int(lengths.max()), device=self.device)
        return self.starts[index][:, None] + torch.minimum(slots, lengths - 1), slots < lengths

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: _Options) -> Tensor:
        """(T, H, D) from q (T, H, D), k and v (T, G, D)."""
        if self.cache is not None:
            assert self.cache_rows is not None  # whoever gives a cache says where to write in it
            assert not any(self.prefix_lengths)  # rows of a cache do not share slots
            rows = self.cache_rows[self.row_of]  # (T,)
            self.cache.write(layer, rows, self.position_ids[0], k, v)
        if q.device.type == "cpu" and self.longest <= MAX_MATMUL_LENGTH and options.is_plain:
            return _BucketAttention.apply(q, k, v, self.buckets, options)
        out = torch.empty_like(q)
        for bucket in self.buckets:
            rows = _bucket_sdpa(q, k, v, bucket, options)  # (N * L, H, D)
            out = out.index_copy(0, bucket.tokens, rows.index_select(0, bucket.scatter))
        return out


class Cached:
    """Layout of one new token for each of the first A rows of a cache, at that row's own slot."""

    def __init__(self, cache: KeyValueCache, slots: Tensor):
        self.cache = cache
        self.slots = slots  # (A,)
        self.rows = torch.arange(len(slots), device=slots.device)
        cache.reserve(int(slots.max()) + 1)
        self._biases: dict[int | None, Tensor] = {}

    @property
    def position_ids(self) -> Tensor:
        return self.slots[None]

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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: _Options) -> Tensor:
        """(A, H, D) from q (A, H, D), k and v (A, G, D) of the new tokens."""
        self.cache.write(layer, self.rows, self.slots, k, v)
        count, (groups, size) = len(self.slots), k.shape[1:]
        keys, values = self.cache.keys[layer][:count], self.cache.values[layer][:count]
        # plain products: the fused kernels are made for many queries and take 2 to 4 times as long
        queries = q.view(count, groups, -1, size).to(self.cache.dtype) * options.scale
        scores = torch.matmul(queries, keys)  # (A, G, H / G, S)
        if options.softcap is not None:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        weights = torch.softmax(scores + self.bias(options.window), dim=-1)
        return torch.matmul(weights, values).view(q.shape).to(q.dtype)


@dataclass(frozen=True)
class _Options:
    """What a model asks of its attention besides the plain causal form."""

    scale: float
    dropout: float = 0.0
    window: int | None = None
    softcap: float | None = None

    @property
    def is_plain(self) -> bool:
        return self.dropout == 0.0 and self.softcap is None


class _BucketAttention(torch.autograd.Function):
    """Causal attention of packed sequences by batched matmuls over length buckets (CPU).

    Measured 2 times faster than the flash kernel in forward + backward for rows near 128 tokens.
    """

    @staticmethod
    def forward(ctx, q, k, v, buckets, options):
        heads = q.shape[1]
        out = torch.empty_like(q)
        saved = []
        for bucket in buckets:
            queries = _to_rows(q, bucket.queries, bucket, heads)  # (N * H, L, D)
            keys, values = (_to_rows(x, bucket.keys, bucket, heads) for x in (k, v))
            weights = _weights(queries, keys, bucket, options)  # (N * H, L, P + L)
            mixed = _to_cells(torch.bmm(weights, values), heads)
            out[bucket.tokens] = mixed.index_select(0, bucket.scatter)
            is_kept = weights.shape[-1] <= MAX_KEPT_LENGTH
            saved += [queries, keys, values, weights if is_kept else None]
        ctx.save_for_backward(*saved)
        ctx.buckets, ctx.options, ctx.shapes = buckets, options, (q.shape, k.shape)
        return out

    @staticmethod
    def backward(ctx, grad):
        (num_tokens, heads, size), (_, groups, _) = ctx.shapes
        grads = [grad.new_zeros(num_tokens, heads, size) for _ in range(3)]
        for i, bucket in enumerate(ctx.buckets):
            q, k, v, weights = ctx.saved_tensors[4 * i : 4 * i + 4]
            if weights is None:
                weights = _weights(q, k, bucket, ctx.options)
            # query cells past a row's end repeat a real token: their gradient is zero, not repeated
            flat = grad.new_zeros(len(bucket.queries), heads, size)
            flat[bucket.scatter] = grad[bucket.tokens]
            upstream = _split_heads(flat, bucket)
            grad_weights = torch.bmm(upstream, v.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(  # pyright: ignore[reportPrivateImportUsage]
                grad_weights, weights, -1, weights.dtype
            )
            grad_scores.mul_(ctx.options.scale)
            parts = (
                (bucket.queries, torch.bmm(grad_scores, k)),
                (bucket.keys, torch.bmm(grad_scores.transpose(1, 2), q)),
                (bucket.keys, torch.bmm(weights.transpose(1, 2), upstream)),
            )
            # cells past an end add zero; a prefix adds up what its rows gave it
            for whole, (cells, part) in zip(grads, parts, strict=True):
                whole.index_add_(0, cells, _to_cells(part, heads))
        if groups != heads:
            grads[1:] = [g.view(num_tokens, groups, -1, size).sum(2) for g in grads[1:]]
        return *grads, None, None


def _to_rows(x: Tensor, cells: Tensor, bucket: Bucket, heads: int) -> Tensor:
    """(N * H, L or P + L, D) rows of a bucket from tokens (T, H or G, D); shared heads repeat."""
    rows = x.index_select(0, cells)
    if x.shape[1] != heads:
        rows = rows.repeat_interleave(heads // x.shape[1], dim=1)
    return _split_heads(rows, bucket)


def _split_heads(rows: Tensor, bucket: Bucket) -> Tensor:
    heads, size = rows.shape[1:]
    rows = rows.view(bucket.num_rows, -1, heads, size).transpose(1, 2)
    return rows.reshape(bucket.num_rows * heads, -1, size)


def _to_cells(rows: Tensor, heads: int) -> Tensor:
    """(N * L, H, D) cells from rows (N * H, L, D)."""
    length, size = rows.shape[1:]
    return rows.view(-1, heads, length, size).transpose(1, 2).reshape(-1, heads, size)


def _weights(q: Tensor, k: Tensor, bucket: Bucket, options: _Options) -> Tensor:
    """(N * H, L, P + L) attention weights of queries (N * H, L, D), keys (N * H, P + L, D)."""
    heads = len(q) // bucket.num_rows
    bias = bucket.bias(options.window, q.dtype).expand(bucket.num_rows, heads, -1, -1)
    scores = bias.clone(memory_format=torch.contiguous_format).view(len(q), *bias.shape[2:])
    return torch.softmax(scores.baddbmm_(q, k.transpose(1, 2), alpha=options.scale), dim=-1)


def _bucket_sdpa(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, options: _Options) -> Tensor:
    """(N * L, H, D) attention of one bucket by the library's kernels, any window or soft cap."""
    queries, keys, values = (
        x.index_select(0, cells).view(bucket.num_rows, -1, *x.shape[1:]).transpose(1, 2)
        for x, cells in ((q, bucket.queries), (k, bucket.keys), (v, bucket.keys))
    )
    is_plain = options.window is None and options.softcap is None
    is_causal = is_plain and not any(bucket.prefix_lengths)
    bias = None if is_causal else bucket.bias(options.window, q.dtype)
    if options.softcap is None:
        out = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=bias,
            is_causal=is_causal,
            dropout_p=options.dropout,
            scale=options.scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    else:
        assert bias is not None  # made above wherever there is a soft cap
        out = _softcap_attention(queries, keys, values, bias, options)
    return out.transpose(1, 2).reshape(-1, q.shape[1], q.shape[2])


def _softcap_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, options: _Options) -> Tensor:
    assert options.softcap is not None
    repeat = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeat, dim=1).to(q.dtype) for x in (k, v))
    scores = torch.matmul(q, k.transpose(-1, -2)) * options.scale
    scores = options.softcap * torch.tanh(scores / options.softcap) + bias
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(F.dropout(weights, options.dropout), v)


def _group_by_length(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of similar length, longest first; none where there are no rows."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: -lengths[row]):
        group = groups[-1] if groups else []
        is_full = len(group) >= MIN_BUCKET_ROWS
        if not group or (is_full and lengths[row] < BUCKET_RATIO * lengths[group[0]]):
            groups.append([row])
        else:
            group.append(row)
    return groups


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
    options = _Options(scale, dropout, sliding_window, softcap)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return layout.attend(module.layer_idx, q, k, v, options)[None], None


AttentionInterface.register(NAME, _attention)
