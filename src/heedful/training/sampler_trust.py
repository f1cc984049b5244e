"""Whether PPO can take the sampler's log-probabilities, or must make its own."""

from __future__ import annotations

import math
import sys

import torch

from heedful.config import PPO
from heedful.rollout.engine import Rollout
from heedful.rollout.experience import Experience

# Of the ratio between two passes of one policy: the largest distance of its mean from 1, and its
# largest spread, for bf16 a tenth of the paper's clip.
RATIO_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-4, torch.float16: 5e-4}
MAX_RATIO_SPREAD = {torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 0.02}


class SamplerTrust:
    """What is known of the sampler; ``known`` is None where it is to be looked at."""

    def __init__(self, ppo: PPO, dtype: torch.dtype):
        self.ppo, self.dtype = ppo, dtype
        self.known: bool | None = None

    @property
    def recomputes(self) -> bool:
        """Whether the policy reads its own responses before it is updated on them."""
        setting = self.ppo.recompute_logprobs
        return setting if setting != "auto" else not self.known

    def look(self, rollout: Rollout, experience: Experience, metrics: dict[str, float]) -> None:
        """Learns from an iteration, by setting "auto".

        At first both log-probabilities are known; from then on the first minibatch, where the ratio
        should be 1, is the test. Where it fails, the next iteration knows both again.
        """
        if self.ppo.recompute_logprobs != "auto":
            return
        if self.known is None:
            self.known = sampler_is_exact(rollout, experience, self.dtype)
        elif self.known:
            share = min(1.0, self.ppo.minibatch_size / len(experience.scores))
            num_tokens = share * float(experience.response_mask.sum())
            mean, spread = metrics["ppo/first_ratio"], metrics["ppo/first_spread"]
            if not ratio_is_one(mean, spread, num_tokens, self.dtype):
                self.known = None


def sampler_is_exact(rollout: Rollout, experience: Experience, dtype: torch.dtype) -> bool:
    """Whether the sampler's log-probabilities can stand for those of ``experience``, recomputed."""
    mask = experience.response_mask
    logs = (experience.logprobs - rollout.logprobs)[mask]
    mean, spread = float(logs.exp().mean()), float(logs.square().mean().sqrt())
    is_exact = ratio_is_one(mean, spread, len(logs), dtype)
    if not is_exact:
        print(
            f"the sampler's log-probabilities are not those of training (mean ratio {mean:.5f}, "
            f"spread {spread:.2g}): they are recomputed in every iteration",
            file=sys.stderr,
            flush=True,
        )
    return is_exact


def ratio_is_one(mean: float, spread: float, num_tokens: float, dtype: torch.dtype) -> bool:
    """Whether two passes of one policy agree, by the ratio of their probabilities over tokens.

    ``spread`` is the root mean square of its logarithm. It must be as small as rounding is, and
    the mean 1 but for rounding, of which a mean over few tokens still shows some: five standard
    errors are allowed.
    """
    left = 5.0 * spread / math.sqrt(num_tokens)
    is_narrow = spread <= MAX_RATIO_SPREAD[dtype]
    return is_narrow and abs(mean - 1.0) <= RATIO_TOLERANCE[dtype] + left
