"""The math of step 3: rewards with a KL penalty, advantages, and PPO's two clipped losses.

Shapes: B episodes, R response tokens. ``response_mask`` is True at the tokens that the policy
sampled, EOS included. **score**: what the reward model gave, one per response. **reward**: per
token, after the KL penalty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heedful.losses.masked import keep, upcast


@torch.no_grad()
def kl_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    kl_coef: float,
) -> Tensor:
    """The reward of each token, (B, R), without gradient: the KL penalty, and the score at the end.

    reward_t = -kl_coef * (log pi(t) - log pi_ref(t)), plus the score of the response at its last
    True position (equation 2 of the paper with the KL paid token by token, section 3.5). The
    estimate of the KL is the plain log-ratio, so a single token may be paid a bonus. A row without
    a True position gets no score: it is padding of the batch.
    """
    _check_shapes(logprobs=logprobs, ref_logprobs=ref_logprobs, response_mask=response_mask)
    if scores.shape != response_mask.shape[:1]:
        raise ValueError(
            f"scores {tuple(scores.shape)} must hold one score for each row of the responses "
            f"{tuple(response_mask.shape)}"
        )
    penalty = -kl_coef * (keep(logprobs, response_mask) - keep(ref_logprobs, response_mask))
    num_left = response_mask.flip(1).cumsum(1).flip(1)  # (B, R): True positions from here on
    is_last = response_mask & (num_left == 1)
    return penalty + torch.where(is_last, upcast(scores).unsqueeze(1), 0.0)


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    discount: float = 1.0,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """The advantages and the returns of each token, both (B, R), without gradient, not whitened.

    Backwards over the True positions, with value and advantage 0 after the last one, because the
    episode ends there (Schulman et al. 2016, equation 16):
    delta_t = reward_t + discount * value_{t+1} - value_t
    advantage_t = delta_t + discount * lam * advantage_{t+1};  return_t = advantage_t + value_t.
    The paper does not discount (appendix C.4); lam is from Stiennon et al. 2020, B.1.
    """
    _check_shapes(rewards=rewards, values=values, response_mask=response_mask)
    rewards, values = keep(rewards, response_mask), keep(values, response_mask)
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(values.shape[0])  # (B,)
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[1])):
        counts = response_mask[:, t]
        delta = rewards[:, t] + discount * next_value - values[:, t]
        advantage = delta + discount * lam * next_advantage
        advantages[:, t] = torch.where(counts, advantage, 0.0)
        next_value = torch.where(counts, values[:, t], next_value)
        next_advantage = torch.where(counts, advantage, next_advantage)
    return advantages, advantages + values


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip: float = 0.2,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped policy loss, summed over the True tokens, and its sums and counts.

    loss = sum_t max(-A_t * ratio_t, -A_t * clamp(ratio_t, 1 - clip, 1 + clip)) with
    ratio_t = exp(logprob_t - old_logprob_t) (Schulman et al. 2017, equation 7).
    ``num_clipped`` counts the tokens whose gradient the clip removes. ``approx_kl_sum`` sums
    0.5 * (logprob - old_logprob)^2, as in lm-human-preferences.
    """
    _check_shapes(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        response_mask=response_mask,
    )
    log_ratio = keep(logprobs, response_mask) - keep(old_logprobs, response_mask).detach()
    advantages = keep(advantages, response_mask).detach()
    ratio = torch.exp(log_ratio)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(plain, clipped).sum()
    return loss, {
        "policy_loss_sum": loss.detach(),
        "ratio_sum": keep(ratio.detach(), response_mask).sum(),
        "num_clipped": (clipped > plain).sum(),
        "approx_kl_sum": 0.5 * log_ratio.detach().square().sum(),
        "num_tokens": response_mask.sum(),
    }


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    clip: float = 0.2,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped value loss, summed over the True tokens, and its sums and counts.

    loss = sum_t 0.5 * max((v_t - R_t)^2, (v_old_t + clamp(v_t - v_old_t, -clip, clip) - R_t)^2)
    (lm-human-preferences). The sums of returns and errors and of their squares give the explained
    variance of a whole batch: 1 - var(error) / var(return).
    """
    _check_shapes(
        values=values, old_values=old_values, returns=returns, response_mask=response_mask
    )
    values = keep(values, response_mask)
    old_values = keep(old_values, response_mask).detach()
    returns = keep(returns, response_mask).detach()
    near = old_values + (values - old_values).clamp(-clip, clip)
    error = values - returns
    plain, clipped = error.square(), (near - returns).square()
    loss = 0.5 * torch.maximum(plain, clipped).sum()
    error = error.detach()
    return loss, {
        "value_loss_sum": loss.detach(),
        "num_clipped": (clipped > plain).sum(),
        "value_sum": values.detach().sum(),
        "return_sum": returns.sum(),
        "return_square_sum": returns.square().sum(),
        "error_sum": error.sum(),
        "error_square_sum": error.square().sum(),
        "num_tokens": response_mask.sum(),
    }


def adaptive_kl(
    kl_coef: float, kl: float, target: float, horizon: float, num_episodes: int
) -> float:
    """The KL coefficient after ``num_episodes`` more episodes whose mean KL per response is ``kl``.

    kl_coef * (1 + clamp(kl / target - 1, -0.2, 0.2) * num_episodes / horizon), from
    Ziegler et al. 2019, section 2.2. InstructGPT keeps the coefficient fixed at 0.02 instead.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_episodes / horizon)


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"tensors of one shape (B, R) are needed, found {found}")
