"""Sums, means and whitening over the positions that count, and the log-probabilities of tokens.

Shapes: B batch, T tokens, V vocabulary. Masks: True = counts; same shape as what they mask, never
broadcast, always the last argument. A position that does not count may hold anything, NaN
included: it is replaced by 0 before any arithmetic, because 0 * NaN is NaN, forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gather_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-probability of each token under the logits at its own index, (B, T).

    log softmax(logits / temperature)[tokens], in fp32 (fp64 stays) whatever the dtype of the
    logits. The caller aligns the two: for a language model, logits[:, :-1] predict tokens[:, 1:].
    The temperature is the one that the tokens were sampled with, in rollout, reference and update
    alike: a policy compared at another temperature is another policy.
    """
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"gather_logprobs: logits {tuple(logits.shape)} must be the shape of tokens "
            f"{tuple(tokens.shape)} and a vocabulary axis"
        )
    if temperature <= 0:
        raise ValueError(f"gather_logprobs: temperature is {temperature}, it must be above 0")
    logprobs = torch.log_softmax(upcast(logits) / temperature, dim=-1)  # (B, T, V)
    return logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (B, T)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """The sum of x over the True positions, a scalar; 0 where there are none."""
    return keep(x, mask).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x over the True positions of the whole tensor, a scalar; 0 where there are none.

    Long rows weigh more than short ones. It is not the mean over rows of their means.
    """
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor) -> Tensor:
    """x moved and scaled to mean 0 and variance 1 over the True positions, 0 at the others.

    (x - mean) / sqrt(var + 1e-8) with the biased variance, which divides by n and not by n - 1
    (as in lm-human-preferences). Equal values have no scale: they come back as 0.
    """
    mean = masked_mean(x, mask)
    centred = keep(x, mask) - mean
    variance = masked_mean(centred.square(), mask)
    return keep(centred * torch.rsqrt(variance + 1e-8), mask)


def keep(x: Tensor, mask: Tensor) -> Tensor:
    """x at the True positions, 0 at the others, at least fp32; no gradient flows to the others."""
    if x.shape != mask.shape:
        raise ValueError(f"x {tuple(x.shape)} and its mask {tuple(mask.shape)} differ in shape")
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}, it must be bool (True = counts)")
    return torch.where(mask, upcast(x), 0.0)


def upcast(x: Tensor) -> Tensor:
    """x in fp32, or as it is if wider: sums in bf16 stop growing after a few hundred terms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
