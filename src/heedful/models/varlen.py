"""Attention of packed sequences on CUDA: FlashAttention reads flat rows and their lengths as is.

Nothing is padded and no weights are kept. Shapes: T query tokens, U key tokens (more where
sequences share a prefix), H heads, G key/value heads, D head size, N sequences.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from heedful.models.buckets import Options

MAX_HEAD_SIZE = 256
# Older versions of the function have no word for heads that share keys, and want them repeated.
TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters


class Lengths(NamedTuple):
    """Where packed sequences begin, as the kernel wants to know it."""

    queries: Tensor  # (N + 1,) int32 first query token of every sequence, and the end
    keys: Tensor  # (N + 1,) int32 the same of the keys, those of its prefix included
    keys_at: Tensor | None  # (U,) the token of every key; None where keys are the tokens
    longest_query: int
    longest_key: int


def can_varlen(q: Tensor, options: Options) -> bool:
    """Whether the kernel computes this: 16 bits on a CUDA device from Ampere on, no soft cap."""
    size = q.shape[-1]
    is_known = options.is_plain and size <= MAX_HEAD_SIZE and size % 8 == 0
    is_half = q.dtype in (torch.bfloat16, torch.float16)
    return is_known and is_half and q.device.type == "cuda" and _has_kernel(q.device)


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
    window = -1 if options.window is None else options.window - 1  # the token itself comes on top
    out = varlen_attn(
        q,
        k,
        v,
        lengths.queries,
        lengths.keys,
        lengths.longest_query,
        lengths.longest_key,
        scale=options.scale,
        window_size=(window, 0),
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
