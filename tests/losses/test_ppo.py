"""Rewards, advantages and PPO's losses, against loops in numpy and hand numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.losses.ppo import adaptive_kl, gae, kl_rewards, policy_loss, value_loss

NAN = float("nan")


def responses(
    seed: int, num_rows: int = 4, width: int = 6
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Three random (B, R) tensors that are NaN after the end of each response, and the mask."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (num_rows, 1), generator=generator)
    mask = torch.arange(width) < lengths
    tensors = torch.randn(3, num_rows, width, generator=generator, dtype=torch.float64)
    return [torch.where(mask, tensor, NAN) for tensor in tensors], mask


def test_rewards_by_hand():
    rewards = kl_rewards(
        scores=torch.tensor([2.0, -1.0]),
        logprobs=torch.tensor([[-1.0, -1.0, NAN], [-3.0, NAN, NAN]]),
        ref_logprobs=torch.tensor([[-2.0, -0.5, NAN], [-3.0, NAN, NAN]]),
        response_mask=torch.tensor([[True, True, False], [True, False, False]]),
        kl_coef=0.1,
    )
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 2.05, 0.0], [-1.0, 0.0, 0.0]]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), kl_coef=st.floats(0, 2))
def test_the_reward_of_a_response_is_its_score_less_the_kl(seed: int, kl_coef: float):
    (logprobs, ref_logprobs, scores), mask = responses(seed)
    rewards = kl_rewards(scores[:, 0], logprobs, ref_logprobs, mask, kl_coef).numpy()
    log_ratio = np.nansum(logprobs.numpy() - ref_logprobs.numpy(), axis=1)
    np.testing.assert_allclose(rewards.sum(1), scores[:, 0].numpy() - kl_coef * log_ratio)
    assert not rewards[~mask.numpy()].any()


def test_a_row_of_padding_is_paid_nothing():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    rewards = kl_rewards(
        torch.tensor([NAN]), torch.full((1, 2), NAN), torch.zeros(1, 2), nothing, 0.1
    )
    assert rewards.tolist() == [[0.0, 0.0]]


def test_advantages_and_returns_by_hand():
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0 + 0.25 - 0.5 = -0.25; advantage_0 = -0.25 + 0.75 / 2.
    advantages, returns = gae(
        torch.tensor([[0.0, 1.0, NAN]]),
        torch.tensor([[0.5, 0.25, NAN]]),
        torch.tensor([[True, True, False]]),
        lam=0.5,
    )
    assert advantages.tolist() == [[0.125, 0.75, 0.0]]
    assert returns.tolist() == [[0.625, 1.0, 0.0]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), discount=st.floats(0.5, 1), lam=st.floats(0, 1))
def test_advantages_are_the_discounted_sums_of_the_errors(seed: int, discount: float, lam: float):
    (rewards, values, _), mask = responses(seed)
    advantages, returns = gae(rewards, values, mask, discount, lam)
    for row in range(mask.shape[0]):
        length = int(mask[row].sum())
        reward, value = rewards[row, :length].numpy(), values[row, :length].numpy()
        delta = reward + discount * np.append(value[1:], 0.0) - value
        for t in range(length):
            weights = (discount * lam) ** np.arange(length - t)
            expected = (weights * delta[t:]).sum()
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-9)
            assert returns[row, t].item() == pytest.approx(expected + value[t], abs=1e-9)
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_with_lam_1_the_return_is_the_reward_to_come():
    (rewards, values, _), mask = responses(seed=3)
    _, returns = gae(rewards, values, mask, lam=1.0)
    paid = np.nan_to_num(rewards.numpy())
    to_come = paid[:, ::-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(returns.numpy(), np.where(mask.numpy(), to_come, 0), atol=1e-12)


def test_padding_before_a_response_changes_nothing():
    (rewards, values, _), mask = responses(seed=5)
    pad = (3, 0)
    wide = [torch.nn.functional.pad(x, pad, value=NAN) for x in (rewards, values)]
    found = gae(*wide, torch.nn.functional.pad(mask, pad, value=False))
    for padded, plain in zip(found, gae(rewards, values, mask), strict=True):
        torch.testing.assert_close(padded[:, 3:], plain)
        assert not padded[:, :3].any()


def test_a_gap_inside_a_response_is_stepped_over():
    mask = torch.tensor([[True, False, True]])
    whole = gae(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]]), torch.tensor([[True, True]])
    )
    found = gae(torch.tensor([[1.0, NAN, 2.0]]), torch.tensor([[0.5, NAN, 3.0]]), mask)
    for gapped, plain in zip(found, whole, strict=True):
        assert gapped[mask].tolist() == plain[0].tolist()


def test_an_unchanged_policy_has_ratio_1_and_loses_its_advantages():
    (logprobs, advantages, _), mask = responses(seed=1)
    loss, stats = policy_loss(logprobs, logprobs, advantages, mask)
    assert loss.item() == pytest.approx(-np.nansum(advantages.numpy()))
    assert stats["ratio_sum"].item() == stats["num_tokens"].item() == mask.sum().item()
    assert stats["num_clipped"].item() == 0
    assert stats["approx_kl_sum"].item() == 0.0


# ratio, advantage, loss, gradient of the loss with respect to the log-probability
CLIP_CASES = [
    (1.1, 2.0, -2.2, -2.2),
    (1.5, 2.0, -2.4, 0.0),  # already raised enough: no gradient
    (0.5, 2.0, -1.0, -1.0),
    (1.5, -2.0, 3.0, 3.0),
    (0.5, -2.0, 1.6, 0.0),  # already lowered enough: no gradient
]


@pytest.mark.parametrize(("ratio", "advantage", "expected", "gradient"), CLIP_CASES)
def test_clipping_by_hand(ratio: float, advantage: float, expected: float, gradient: float):
    logprobs = torch.tensor([[math.log(ratio) - 1.0]], dtype=torch.float64, requires_grad=True)
    loss, stats = policy_loss(
        logprobs,
        torch.tensor([[-1.0]], dtype=torch.float64),
        torch.tensor([[advantage]], dtype=torch.float64),
        torch.tensor([[True]]),
    )
    loss.backward()
    assert logprobs.grad is not None
    assert loss.item() == pytest.approx(expected)
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert stats["num_clipped"].item() == (1 if gradient == 0 else 0)
    assert stats["ratio_sum"].item() == pytest.approx(ratio)
    assert stats["approx_kl_sum"].item() == pytest.approx(0.5 * math.log(ratio) ** 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clip=st.floats(0.05, 0.5))
def test_policy_loss_against_a_loop(seed: int, clip: float):
    (logprobs, old_logprobs, advantages), mask = responses(seed)
    expected = 0.0
    for row, column in mask.nonzero().tolist():
        ratio = math.exp(logprobs[row, column].item() - old_logprobs[row, column].item())
        advantage = advantages[row, column].item()
        expected -= min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
    loss, _ = policy_loss(logprobs, old_logprobs, advantages, mask, clip)
    assert loss.item() == pytest.approx(expected)


# value, old value, return, loss, gradient
VALUE_CASES = [
    (1.1, 1.0, 2.0, 0.405, -0.9),
    (1.5, 1.0, 2.0, 0.32, 0.0),  # moved further than the clip towards the return: no gradient
    (0.5, 1.0, 0.0, 0.32, 0.0),  # the same downwards
    (0.5, 1.0, 2.0, 1.125, -1.5),
    (3.0, 1.0, 2.0, 0.5, 1.0),  # overshot: the plain error is the larger one
]


@pytest.mark.parametrize(("value", "old", "target", "expected", "gradient"), VALUE_CASES)
def test_value_loss_by_hand(
    value: float, old: float, target: float, expected: float, gradient: float
):
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    loss, stats = value_loss(
        values,
        torch.tensor([[old]], dtype=torch.float64),
        torch.tensor([[target]], dtype=torch.float64),
        torch.tensor([[True]]),
    )
    loss.backward()
    assert values.grad is not None
    assert loss.item() == pytest.approx(expected)
    assert values.grad.item() == pytest.approx(gradient)
    assert stats["num_clipped"].item() == (1 if gradient == 0 else 0)


def test_value_stats_give_the_explained_variance():
    (values, old_values, returns), mask = responses(seed=2)
    _, stats = value_loss(values, old_values, returns, mask)
    sums = {key: value.item() for key, value in stats.items()}
    n = sums["num_tokens"]
    found_error = sums["error_square_sum"] / n - (sums["error_sum"] / n) ** 2
    found_return = sums["return_square_sum"] / n - (sums["return_sum"] / n) ** 2
    counted = mask.numpy()
    error, target = (values - returns).numpy()[counted], returns.numpy()[counted]
    assert 1 - found_error / found_return == pytest.approx(1 - error.var() / target.var())
    assert sums["value_sum"] == pytest.approx(values.numpy()[counted].sum())


@pytest.mark.parametrize("loss_function", [policy_loss, value_loss])
def test_what_the_mask_hides_reaches_neither_loss_nor_gradient(loss_function):
    (first, second, third), mask = responses(seed=4)
    first = first.requires_grad_()
    loss, stats = loss_function(first, second, third, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(value) for value in stats.values())
    assert not any(value.requires_grad for value in stats.values())
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
    assert not first.grad[~mask].any()


@pytest.mark.parametrize("loss_function", [policy_loss, value_loss])
def test_eight_micro_batches_give_the_gradient_of_one_batch(loss_function):
    (first, second, third), mask = responses(seed=6, num_rows=8)
    scale = torch.ones(6, dtype=torch.float64, requires_grad=True)

    def gradient(batches: list[slice]) -> torch.Tensor:
        scale.grad = None
        for rows in batches:
            prediction = torch.where(mask[rows], first[rows], 0.0) * scale
            loss, _ = loss_function(prediction, second[rows], third[rows], mask[rows])
            (loss / mask.sum()).backward()
        assert scale.grad is not None
        return scale.grad

    whole = gradient([slice(0, 8)])
    torch.testing.assert_close(gradient([slice(i, i + 1) for i in range(8)]), whole)


def test_adaptive_kl_by_hand():
    # KL 6.6 of a target of 6 is 10 % too much; 256 episodes of a horizon of 10,000.
    assert adaptive_kl(0.15, 6.6, 6.0, 10_000, 256) == pytest.approx(0.15 * (1 + 0.1 * 0.0256))
    assert adaptive_kl(0.15, 60.0, 6.0, 10_000, 5_000) == pytest.approx(0.15 * 1.1)
    assert adaptive_kl(0.15, 0.0, 6.0, 10_000, 5_000) == pytest.approx(0.15 * 0.9)


def test_other_shapes_are_refused():
    plane, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"logprobs \(2, 3\), old_logprobs \(2, 2\)"):
        policy_loss(plane, plane[:, :2], plane, mask)
    with pytest.raises(ValueError, match=r"returns \(1, 3\)"):
        value_loss(plane, plane, plane[:1], mask)
    with pytest.raises(ValueError, match=r"rewards \(2, 3\), values \(2, 2\)"):
        gae(plane, plane[:, :2], mask)
    with pytest.raises(ValueError, match=r"scores \(3,\).*\(2, 3\)"):
        kl_rewards(torch.zeros(3), plane, plane, mask, 0.1)
