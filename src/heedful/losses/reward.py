"""The loss of step 2: a reward model learns the order in which labelers ranked completions.

Shapes: N completions of a batch, of all its prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from heedful.losses.masked import upcast


def ranking_loss(scores: Tensor, ranks: Tensor, group: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The ranking loss of every prompt, summed over prompts, and its counts.

    Equation 1 of the paper (section 3.5):
    loss = sum over prompts of the mean over its pairs of -log sigmoid(s_better - s_worse).
    ``group`` tells the prompt of each completion, in any order; rank 1 is best. Where several
    labelers ranked a prompt, each of their rankings is a group. Tied completions make no pair
    (appendix C.2), and a group weighs 1 however many of its pairs are left, so the divisor is the
    number of untied pairs where the paper writes C(K, 2). A group with ties only adds 0. Divide by
    ``num_prompts`` of the whole batch. ``accuracy`` is that of this call; across calls use
    num_correct / num_pairs, where two equal scores are half correct.
    """
    _check_vectors(scores=scores, ranks=ranks, group=group)
    same = group.unsqueeze(1) == group.unsqueeze(0)  # (N, N)
    better = same & (ranks.unsqueeze(1) < ranks.unsqueeze(0))  # (N, N): row better than column
    scores = upcast(scores)
    margin = torch.where(better, scores.unsqueeze(1) - scores.unsqueeze(0), 0.0)  # (N, N)
    # Every completion learns how many pairs its prompt has; counts are exact in floating point.
    pairs = same.to(margin.dtype) @ better.sum(1).to(margin.dtype)  # (N,)
    losses = torch.where(better, -logsigmoid(margin), 0.0).sum(1)  # (N,)
    loss = (losses / pairs.clamp(min=1)).sum()
    is_first = ~same.tril(diagonal=-1).any(1)  # (N,): counts each prompt once
    return loss, {
        **_pair_stats(margin.detach(), better),
        "num_prompts": (is_first & (pairs > 0)).sum(),
        "loss_sum": loss.detach(),
    }


def _pair_stats(margin: Tensor, is_pair: Tensor) -> dict[str, Tensor]:
    """How many pairs there are, how many are in the right order, and the share of these."""
    num_pairs = is_pair.sum()
    correct = (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)
    num_correct = torch.where(is_pair, correct, 0.0).sum()
    return {
        "accuracy": num_correct / num_pairs.clamp(min=1),
        "num_correct": num_correct,
        "num_pairs": num_pairs,
    }


def _check_vectors(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"vectors of one length (N,) are needed, found {found}")
