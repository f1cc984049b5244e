"""Speed of an iteration of step 3, by hand."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from heedful.config import PPO
from heedful.rollout.experience import Experience
from heedful.training.monitoring import speed

# Two episodes: prompts of 3 and 2 tokens, responses of 4 and 1: 10 tokens, 5 of them sampled.
EPISODES = Experience(
    prompts=[[2, 3, 4], [5, 6]],
    responses=[[7, 8, 9, 0], [0]],
    response_mask=torch.tensor([[True] * 4, [True] + [False] * 3]),
    finished=torch.tensor([True, True]),
    scores=torch.zeros(2),
    **dict.fromkeys(
        ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"),
        torch.zeros(2, 4),
    ),
)
SECONDS = {"rollout": 2.0, "experience": 1.0, "optimize": 5.0}
POLICY, REWARD_MODEL = nn.Linear(10, 10, bias=False), nn.Linear(10, 3, bias=False)


def of(num_text_tokens: int, **changes) -> dict[str, float]:
    recomputed = changes.pop("recomputed", True)
    models = types.SimpleNamespace(policy=POLICY, reward_model=REWARD_MODEL)
    return speed(PPO(**changes), models, EPISODES, num_text_tokens, SECONDS, recomputed)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("num_text_tokens", [0, 40])
def test_floating_point_operations_by_hand(recompute: bool, epochs: int, num_text_tokens: int):
    """2 per weight and token forward, 6 forward and backward; 100 weights and 30."""
    sampled, reference, scored, valued = 10 * 200, 10 * 200, 10 * 60, 10 * 60
    operations = sampled + reference + scored + valued + (10 * 200 if recompute else 0)
    operations += epochs * 10 * (600 + 180) + num_text_tokens * 600
    values = of(num_text_tokens, recomputed=recompute, epochs=epochs)
    assert values["speed/flops_per_s"] == pytest.approx(operations / 8)


def test_rates_by_hand():
    values = of(40, epochs=3)
    assert values["speed/tokens_per_s"] == pytest.approx((3 * 10 + 40) / 8)
    assert values["speed/rollout_tokens_per_s"] == pytest.approx(5 / 2)
    assert values["speed/episodes_per_s"] == pytest.approx(2 / 8)
