"""Masked sums, means, whitening and token log-probabilities, against numpy and hand numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax

from heedful.losses.masked import gather_logprobs, masked_mean, masked_sum, masked_whiten

NAN = float("nan")
X = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_logprob_of_a_token_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), math.log(1.0)]]])
    logprobs = gather_logprobs(logits, torch.tensor([[1, 1]]))
    expected = torch.tensor([[math.log(0.75), math.log(0.2)]])
    torch.testing.assert_close(logprobs, expected)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.5])
def test_logprobs_against_scipy(temperature: float):
    rng = np.random.default_rng(0)
    logits = 10 * rng.standard_normal((3, 5, 7))
    tokens = rng.integers(0, 7, (3, 5))
    expected = np.take_along_axis(
        log_softmax(logits / temperature, axis=-1), tokens[..., None], axis=-1
    )[..., 0]
    found = gather_logprobs(torch.tensor(logits), torch.tensor(tokens), temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_logprobs_of_half_precision_logits_are_single_precision():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.zeros(2, 3, dtype=torch.long)
    found = gather_logprobs(logits, tokens)
    assert found.dtype == torch.float32
    expected = log_softmax(logits.double().numpy(), axis=-1)[..., 0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[1e4, 1e4, -1e4]]])
    found = gather_logprobs(logits, torch.tensor([[0]]))
    assert found.item() == pytest.approx(math.log(0.5))


def test_logprobs_refuse_other_shapes_and_temperatures():
    with pytest.raises(ValueError, match=r"\(2, 3, 5\).*\(2, 4\)"):
        gather_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="temperature is 0"):
        gather_logprobs(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), 0.0)


def test_sum_and_mean_by_hand():
    assert masked_sum(X, MASK).item() == 9.0
    assert masked_mean(X, MASK).item() == 3.0


def test_nothing_that_counts_is_zero():
    nothing = torch.zeros_like(MASK)
    assert masked_sum(X, nothing).item() == 0.0
    assert masked_mean(X, nothing).item() == 0.0
    assert masked_whiten(X, nothing).tolist() == [[0.0] * 3, [0.0] * 3]


def test_whiten_by_hand():
    # Mean 3; squared distances 4, 1 and 9, so the biased variance is 14 / 3.
    scale = math.sqrt(3 / 14)
    expected = torch.tensor([[-2 * scale, -scale, 0.0], [3 * scale, 0.0, 0.0]])
    torch.testing.assert_close(masked_whiten(X, MASK), expected)


def test_whitening_equal_values_gives_zeros():
    assert masked_whiten(torch.full((2, 3), 5.0), MASK).abs().max().item() == 0.0


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(np.float64, (3, 5), elements=st.floats(-100, 100)),
    mask=hnp.arrays(np.bool_, (3, 5)),
    scale=st.floats(0.1, 10),
    shift=st.floats(-10, 10),
)
def test_whitened_values_have_mean_0_and_variance_1(
    x: np.ndarray, mask: np.ndarray, scale: float, shift: float
):
    counted = x[mask]
    if counted.size == 0 or counted.std() < 0.1:
        return
    white = masked_whiten(torch.tensor(x), torch.tensor(mask))
    assert white.numpy()[mask].mean() == pytest.approx(0, abs=1e-6)
    assert white.numpy()[mask].var() == pytest.approx(1, abs=1e-5)
    assert not white.numpy()[~mask].any()
    moved = masked_whiten(torch.tensor(scale * x + shift), torch.tensor(mask))
    np.testing.assert_allclose(moved.numpy(), white.numpy(), atol=2e-4)


def test_half_precision_is_summed_in_single_precision():
    ones = torch.ones(1, 1001, dtype=torch.bfloat16)
    assert masked_sum(ones, torch.ones_like(ones, dtype=torch.bool)).item() == 1001.0


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_whiten])
def test_what_the_mask_hides_reaches_neither_value_nor_gradient(function):
    x = X.clone().requires_grad_()
    value = function(x, MASK)
    assert torch.isfinite(value).all()
    value.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~MASK].any()


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_whiten])
def test_a_mask_of_another_shape_or_type_is_refused(function):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3,\)"):
        function(X, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be bool"):
        function(X, torch.ones(2, 3))
