"""Rewards, advantages and returns of a rollout worked out by hand."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from heedful.rollout.experience import make_experience, penalize_cut


def test_two_episodes_by_hand():
    """kl_coef 0.1, lam 0.5, no discount; the second response has one token."""
    mask = torch.tensor([[True, True], [True, False]])
    experience = make_experience(
        [[5], [6, 7]],
        [[8, 9], [0]],
        torch.tensor([False, True]),
        mask,
        logprobs=torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]),
        ref_logprobs=torch.tensor([[-2.0, -1.0], [-1.0, 0.0]]),
        values=torch.tensor([[0.5, 1.0], [2.0, 0.0]]),
        scores=torch.tensor([3.0, 1.0]),
        kl_coef=0.1,
        lam=0.5,
    )
    # log ratios 1, -1 and -2
    assert_close(experience.kl, torch.tensor([0.0, -2.0]))
    assert_close(experience.rewards, torch.tensor([[-0.1, 3.1], [1.2, 0.0]]))
    # errors: -0.1 + 1.0 - 0.5 = 0.4; 3.1 - 1.0 = 2.1; 1.2 - 2.0 = -0.8
    # advantages: 0.4 + 0.5 * 2.1 = 1.45; 2.1; -0.8
    assert_close(experience.returns, torch.tensor([[1.95, 3.1], [1.2, 0.0]]))
    # mean 0.916667, biased variance 1.543889
    expected = (torch.tensor([1.45, 2.1, -0.8]) - 0.9166667) / 1.5438889**0.5
    assert_close(experience.advantages[mask], expected, rtol=1e-5, atol=1e-5)
    assert float(experience.advantages[1, 1]) == 0.0


def test_a_cut_response_has_a_score_of_its_own():
    scores, finished = torch.tensor([2.5, -4.0, 0.5]), torch.tensor([True, False, False])
    assert penalize_cut(scores, finished).tolist() == [2.5, -1.0, -1.0]
    assert penalize_cut(scores, finished, -3.0).tolist() == [2.5, -3.0, -3.0]
    assert penalize_cut(scores, finished, "none").tolist() == [2.5, -4.0, 0.5]
    assert scores.tolist() == [2.5, -4.0, 0.5]
