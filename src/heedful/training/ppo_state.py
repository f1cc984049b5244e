"""What changes over a run of step 3, and is saved so that it can go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from heedful.config import PPOConfig
from heedful.training.budget import Budget
from heedful.training.checkpoint import load_state
from heedful.training.loop import Adam
from heedful.training.sampler_trust import SamplerTrust


@dataclass
class PPOState:
    """Both optimizers, the average, the KL coefficient, and what is known of sampler and memory."""

    policy: Adam
    value: Adam
    ema: Tensor
    kl_coef: float
    fingerprint: str
    trust: SamplerTrust
    tokens: Budget  # of a micro-batch
    rows: Budget  # of a rollout

    @classmethod
    def build(cls, config: PPOConfig, models: Any, fingerprint: str) -> PPOState:
        """The state before the first iteration."""
        optimizers = [
            Adam(model, eps=config.optim_eps, max_grad_norm=config.max_grad_norm)
            for model in (models.policy, models.value_function)
        ]
        ema = optimizers[0].master.data.clone()
        trust = SamplerTrust(config.ppo, optimizers[0].weights.dtype)
        tokens, rows = Budget.of_tokens(config.compute), Budget.of_rows(config.sampling)
        kl_coef = config.ppo.kl_coef
        policy, value = optimizers
        return cls(policy, value, ema, kl_coef, fingerprint, trust, tokens, rows)

    def average(self, decay: float, iteration: int) -> None:
        """Moves the averaged weights towards the current ones, once per iteration.

        ema_t = decay * ema_{t-1} + (1 - decay) * weights_t from ema_0 = 0, divided by 1 - decay^t
        as Adam divides its averages: a run much shorter than the paper's 500 iterations does not
        publish its initial weights.
        """
        share = (1 - decay) / (1 - decay ** (iteration + 1))
        self.ema.lerp_(self.policy.master.data, share)

    def publish_weights(self) -> None:
        self.policy.release(self.ema)
        self.value.release()

    def resume(self, run_dir: Path) -> int:
        """Goes on from the newest state; returns the first iteration to do."""
        state = load_state(run_dir, self.fingerprint)
        if state is None:
            return 0
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        self.ema.copy_(state["ema"])
        self.kl_coef = state["kl_coef"]
        self.trust.known = state["trusts_sampler"]
        for budget, amount in zip(
            (self.tokens, self.rows), state.get("at_a_time", {}).values(), strict=False
        ):
            budget.amount = min(budget.amount, amount)  # where memory had run out
        return state["step"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "ema": self.ema,
            "kl_coef": self.kl_coef,
            "trusts_sampler": self.trust.known,
            "at_a_time": {"tokens": self.tokens.amount, "rows": self.rows.amount},
            "fingerprint": self.fingerprint,
        }
