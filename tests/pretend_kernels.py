"""What the processor's torch lacks and CUDA has, computed plainly: for the pretend device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def _attend(q, k, v, cu_q, cu_k, is_causal, scale, window):
    """FlashAttention 2 on packed fp32 sequences, by its definition: (T, H, D), and (H, T) sums."""
    (left, right), heads = window or (-1, -1), q.shape[1]
    right = 0 if is_causal else right
    out, sums = [], []
    for queries, keys, values in zip(
        q.split(cu_q.diff().tolist()), *(x.split(cu_k.diff().tolist()) for x in (k, v)), strict=True
    ):
        ends = torch.arange(len(queries)) + len(keys) - len(queries)  # aligned at the bottom right
        ahead = torch.arange(len(keys)) - ends[:, None]
        seen = ((ahead <= right) | (right < 0)) & ((ahead >= -left) | (left < 0))
        keys, values = (x.repeat_interleave(heads // k.shape[1], 1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * (scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        weights = weights.masked_fill(~seen, 0.0)  # a query that sees nothing gets zeros
        out.append(torch.einsum("hqk,khd->qhd", weights, values))
        sums.append(scores.masked_fill(~seen, -torch.inf).logsumexp(-1))
    sums = torch.cat(sums, 1)
    return torch.cat(out), sums.masked_fill(sums.isneginf(), torch.inf)


def _varlen_forward(
    q,
    k,
    v,
    cu_q,
    cu_k,
    max_q,
    max_k,
    is_causal=False,
    scale=None,
    window=None,
    _gqa=False,
    used=None,
    *_,
):
    if q.dtype not in HALVES or {k.dtype, v.dtype} != {q.dtype}:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if q.shape[-1] > 256 or q.shape[-1] % 8 or any(x.stride(-1) != 1 for x in (q, k, v)):
        raise RuntimeError("FlashAttention: head size up to 256, a multiple of 8, contiguous")
    for starts, longest, x in ((cu_q, max_q, q), (cu_k, max_k, k)):
        lengths = starts.diff()
        if starts.dtype != torch.int32:
            raise RuntimeError("cu_seqlens must have dtype int32")
        if starts[0] != 0 or starts[-1] != len(x) or (lengths < 0).any():
            raise RuntimeError("cu_seqlens must rise from 0 to the number of tokens")
        if (lengths > longest).any():
            raise RuntimeError(f"a sequence is longer than the longest is said to be, {longest}")
    if used is not None:  # of each sequence of keys its beginning alone
        if used.dtype != torch.int32 or (used > cu_k.diff()).any() or (used < 0).any():
            raise RuntimeError("seqused_k must be int32 and hold no more than a sequence does")
        kept = [slice(a, a + n) for a, n in zip(cu_k.tolist(), used.tolist(), strict=False)]
        k, v = (torch.cat([x[part] for part in kept]) for x in (k, v))
        cu_k = torch.cat((used.new_zeros(1), used.cumsum(0)))
    q, k, v, dtype = q.float(), k.float(), v.float(), q.dtype
    out, sums = _attend(q, k, v, cu_q, cu_k, is_causal, scale, window)
    return out.to(dtype), sums, torch.zeros(2, dtype=torch.uint64)


def _varlen_backward(
    grad, q, k, v, out, sums, cu_q, cu_k, max_q, max_k, is_causal, rng, scale=None, window=None
):
    with torch.inference_mode(False), torch.enable_grad():
        given = [x.float().clone().requires_grad_() for x in (q, k, v)]
        again, _ = _attend(*given, cu_q.clone(), cu_k.clone(), is_causal, scale, window)
        return tuple(x.to(q.dtype) for x in torch.autograd.grad(again, given, grad.float().clone()))


def _wide(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A product of bf16 or fp16 tensors that is summed and kept in fp32."""

    def compute(*args, out=None, **factors):
        *tensors, dtype = args
        narrow = tensors[-1].dtype
        if dtype != narrow and (dtype != torch.float32 or narrow not in HALVES):
            raise RuntimeError("out_dtype must be the input dtype, or fp32 for fp16/bf16 inputs")
        made = product(*(x.float() for x in tensors), **factors).to(dtype)
        if out is not None and out.dtype != dtype:
            raise RuntimeError("out_dtype must be the dtype of the provided out tensor")
        return made if out is None else out.copy_(made)

    return compute


# What the processor's torch lacks.
REFERENCES: dict[str, Callable[..., Any]] = {
    f"aten.{product.__name__}.{overload}": _wide(product)
    for product in (torch.mm, torch.bmm, torch.addmm, torch.baddbmm)
    for overload in ("dtype", "dtype_out")
}
REFERENCES["torch_attn._varlen_attn.default"] = _varlen_forward
REFERENCES["torch_attn._varlen_attn_backward.default"] = _varlen_backward
