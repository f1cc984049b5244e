"""What PPO learns from: rollouts with scores, reference log-probabilities, values, advantages.

Shapes: B episodes, R longest response.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from heedful.losses.masked import masked_whiten
from heedful.losses.ppo import gae, kl_rewards

# Score of a response that was cut, wherever no setting names another (lm-human-preferences: -1).
MISSING_EOS_SCORE = -1.0


class Experience(NamedTuple):
    """One iteration's episodes; everything is fixed while the policy is updated on it."""

    prompts: list[list[int]]
    responses: list[list[int]]
    response_mask: Tensor  # (B, R) True at response tokens
    finished: Tensor  # (B,) True where the response ended with EOS
    logprobs: Tensor  # (B, R) of the policy that sampled
    ref_logprobs: Tensor  # (B, R) of the reference policy
    values: Tensor  # (B, R) of the value function before the update
    scores: Tensor  # (B,) of the reward model, missing EOS included
    rewards: Tensor  # (B, R) KL penalty per token, plus the score at the last token
    advantages: Tensor  # (B, R) whitened over all tokens of the iteration
    returns: Tensor  # (B, R) unwhitened advantages plus values

    @property
    def kl(self) -> Tensor:
        """(B,) estimated KL from the reference in nats per response (sum of log ratios)."""
        return ((self.logprobs - self.ref_logprobs) * self.response_mask).sum(1)


def penalize_cut(
    scores: Tensor,
    finished: Tensor,
    missing_eos_score: float | Literal["none"] = MISSING_EOS_SCORE,
) -> Tensor:
    """(B,) what responses are worth: the reward model's score (B,) where one ended by itself.

    A response that neither EOS nor a stop text ended was cut by the token limit; it is worth a
    fixed score whatever it says: in PPO its setting, as reward and on validation prompts; outside
    PPO, in choosing a model or a prefix and in reporting, always -1. "none" keeps the reward
    model's score of the cut text.
    """
    if missing_eos_score == "none":
        return scores
    return scores.masked_fill(~finished, missing_eos_score)


def make_experience(
    prompts: list[list[int]],
    responses: list[list[int]],
    finished: Tensor,
    response_mask: Tensor,
    *,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    scores: Tensor,
    kl_coef: float,
    discount: float = 1.0,
    lam: float = 0.95,
) -> Experience:
    """Rewards, advantages and returns of finished rollouts (paper 3.5 and equation 2).

    Advantages are whitened over the iteration's response tokens, returns are not; rewards are never
    whitened.
    """
    rewards = kl_rewards(scores, logprobs, ref_logprobs, response_mask, kl_coef)
    advantages, returns = gae(rewards, values, response_mask, discount, lam)
    return Experience(
        prompts,
        responses,
        response_mask,
        finished,
        logprobs,
        ref_logprobs,
        values,
        scores,
        rewards,
        masked_whiten(advantages, response_mask),
        returns,
    )
