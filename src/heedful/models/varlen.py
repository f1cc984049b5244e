"""Attention of packed sequences on CUDA: FlashAttention reads flat rows and their lengths as is.

Nothing is padded and no weights are kept. Shapes: T query tokens, U key tokens (more where
sequences share a prefix), H heads, G key/value heads, D head size, N sequences, A rows of a cache,
S slots.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from heedful.models.buckets import Options

# Between 192 and 256 the backward pass is for some devices alone.
HEAD_SIZES = (*range(8, 193, 8), 256)
# Older versions of the function have no word for heads that share keys, and want them repeated,
# and none for rows of a cache of which a part is used.
TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
TAKES_USED = "seqused_k" in inspect.signature(varlen_attn).parameters


class Lengths(NamedTuple):
    """Where packed sequences begin, as the kernel wants to know it."""

    queries: Tensor  # (N + 1,) int32 first query token of every sequence, and the end
    keys: Tensor  # (N + 1,) int32 the same of the keys, those of its prefix included
    keys_at: Tensor | None  # (U,) the token of every key; None where keys are the tokens
    longest_query: int
    longest_key: int


def can_varlen(q: Tensor, options: Options) -> bool:
    """Whether the kernel computes this: 16 bits on a CUDA device from Ampere on, no soft cap."""
    return options.is_plain and _is_known(q.shape[-1], q.dtype, q.device)


def can_varlen_decode(
    text_config: Any, head_size: int, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether the kernel can decode with a model: of each row of a cache it reads what is used."""
    is_plain = getattr(text_config, "attn_logit_softcapping", None) is None
    return is_plain and TAKES_GROUPS and TAKES_USED and _is_known(head_size, dtype, device)


def _is_known(head_size: int, dtype: torch.dtype, device: torch.device) -> bool:
    is_half = dtype in (torch.bfloat16, torch.float16)
    return is_half and head_size in HEAD_SIZES and device.type == "cuda" and _has_kernel(device)


def _window(options: Options) -> tuple[int, int]:
    """Causal, so many tokens back; the token itself comes on top."""
    return (-1 if options.window is None else options.window - 1, 0)


class Used(NamedTuple):
    """How much of the rows of a cache is used, as the kernel wants to know it."""

    queries: Tensor  # (A + 1,) int32 from 0 to A
    rows: Tensor  # (A + 1,) int32 where every row begins, slots counted
    used: Tensor  # (A,) int32 slots of every row that are looked at

    @classmethod
    def of(cls, slots: Tensor, num_slots: int) -> Used:
        """From the newest slot of every row (A,), and how many slots rows have."""
        queries = torch.arange(len(slots) + 1, dtype=torch.int32, device=slots.device)
        return cls(queries, queries * num_slots, (slots + 1).to(torch.int32))


def varlen_decode(q: Tensor, keys: Tensor, values: Tensor, used: Used, options: Options) -> Tensor:
    """(A, H, D) attention of a query each (A, H, D) to its row of keys and values (A, S, G, D)."""
    assert options.is_plain  # can_varlen_decode has seen to it
    num_slots = keys.shape[1]
    k, v = (x.flatten(0, 1) for x in (keys, values))
    out = varlen_attn(
        q.to(k.dtype),
        k,
        v,
        used.queries,
        used.rows,
        1,
        num_slots,
        scale=options.scale,
        window_size=_window(options),
        enable_gqa=q.shape[1] != k.shape[1],
        seqused_k=used.used,
    )
    assert isinstance(out, Tensor)
    return out.to(q.dtype)


@cache
def _has_kernel(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths, options: Options) -> Tensor:
    """(T, H, D) causal attention from q (T, H, D), k and v (T, G, D).

    The last query of a sequence sees its last key: a sequence sees all of its prefix.
    """
    if lengths.keys_at is not None:
        k, v = (_Gather.apply(x, lengths.keys_at) for x in (k, v))
    shared = q.shape[1] // k.shape[1]
    groups = {}
    if shared > 1 and TAKES_GROUPS:
        groups["enable_gqa"] = True
    elif shared > 1:
        k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    out = varlen_attn(
        q,
        k,
        v,
        lengths.queries,
        lengths.keys,
        lengths.longest_query,
        lengths.longest_key,
        scale=options.scale,
        window_size=_window(options),
        **groups,
    )
    assert isinstance(out, Tensor)  # a pair only where one asks for more
    return out


class _Gather(torch.autograd.Function):
    """x (T, G, D) at tokens (U,); what many keys give back to one token is summed in fp32."""

    @staticmethod
    def forward(ctx, x, at):
        ctx.save_for_backward(at)
        ctx.num_tokens = len(x)
        return x.index_select(0, at)

    @staticmethod
    def backward(ctx, grad):
        (at,) = ctx.saved_tensors
        total = grad.new_zeros((ctx.num_tokens, *grad.shape[1:]), dtype=torch.float32)
        return total.index_add_(0, at, grad.float()).to(grad.dtype), None
