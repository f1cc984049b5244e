"""The loss of step 1, supervised fine-tuning, which is also the pretraining term of PPO-ptx."""

from __future__ import annotations

from torch import Tensor

from heedful.losses.masked import masked_sum


def sft_loss(logprobs: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The negative log-likelihood of the True tokens, summed, and its sum and count.

    loss = - sum_t log pi(token_t | tokens before t). Divide by the ``num_tokens`` of the whole
    batch, over all micro-batches and ranks, for the mean per token. The paper does not say
    whether its loss includes the prompt: the caller's mask decides.
    """
    loss = -masked_sum(logprobs, mask)
    return loss, {"nll_sum": loss.detach(), "num_tokens": mask.sum()}
