"""The supervised loss: hand numbers, accumulation, padding."""

from __future__ import annotations

import pytest
import torch

from heedful.losses.masked import gather_logprobs
from heedful.losses.sft import sft_loss

NAN = float("nan")


def test_loss_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-0.5, NAN, NAN]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss, stats = sft_loss(logprobs, mask)
    assert loss.item() == 3.5
    assert stats["nll_sum"].item() == 3.5
    assert stats["num_tokens"].item() == 3


def test_gradient_is_probability_minus_one_hot():
    logits = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.tensor([[3, 1]])
    loss, _ = sft_loss(gather_logprobs(logits, tokens), torch.tensor([[True, False]]))
    loss.backward()
    expected = torch.softmax(logits.detach(), -1)
    expected[0, 0, 3] -= 1
    expected[0, 1] = 0
    torch.testing.assert_close(logits.grad, expected)


def test_eight_micro_batches_give_the_gradient_of_one_batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 6, 3, generator=generator)
    tokens = torch.randint(0, 5, (8, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (8, 1), generator=generator)
    weight = torch.randn(3, 5, generator=generator).requires_grad_()
    num_tokens = mask.sum()

    def gradient(batches: list[slice]) -> torch.Tensor:
        weight.grad = None
        for rows in batches:
            logprobs = gather_logprobs(features[rows] @ weight, tokens[rows])
            loss, _ = sft_loss(logprobs, mask[rows])
            (loss / num_tokens).backward()
        assert weight.grad is not None
        return weight.grad

    whole = gradient([slice(0, 8)])
    torch.testing.assert_close(gradient([slice(i, i + 1) for i in range(8)]), whole)


def test_padding_leaves_loss_and_gradient_finite_and_unchanged():
    logprobs = torch.tensor([[-1.0, -2.0, NAN, NAN]], requires_grad=True)
    loss, _ = sft_loss(logprobs, torch.tensor([[True, True, False, False]]))
    loss.backward()
    assert loss.item() == 3.0
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.0, -1.0, 0.0, 0.0]]


def test_stats_carry_no_gradient_and_shapes_are_checked():
    logprobs = torch.zeros(2, 3, requires_grad=True)
    _, stats = sft_loss(logprobs, torch.ones(2, 3, dtype=torch.bool))
    assert not any(value.requires_grad for value in stats.values())
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 2\)"):
        sft_loss(logprobs, torch.ones(2, 2, dtype=torch.bool))
