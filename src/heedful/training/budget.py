"""How much is computed at a time: as much as is set, less for good where memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from heedful.config import Compute, Sampling
from heedful.errors import TrainingError
from heedful.memory import memory_reason, out_of_memory
from heedful.models.device import tokens_at_a_time
from heedful.rollout.decoding import Rollout
from heedful.training.loop import Adam

T = TypeVar("T")


class Kind(NamedTuple):
    """What a budget counts, how few of it make sense, and what fewer of it change."""

    name: str
    setting: str
    least: int
    changes: str


TOKENS = Kind("tokens", "compute.tokens-per-microbatch", 256, "which moves dropout, nothing else")
ROWS = Kind("responses", "sampling.max-rows", 1, "which changes what random numbers each gets")


class Budget:
    """The tokens of a micro-batch, or the responses of a rollout, that are computed at a time.

    What was begun with too many is dropped and done again with half of them.
    """

    def __init__(self, kind: Kind, amount: int):
        self.kind, self.amount = kind, amount

    @classmethod
    def of_tokens(cls, compute: Compute) -> Budget:
        """Of micro-batches."""
        return cls(TOKENS, tokens_at_a_time(compute))

    @classmethod
    def of_rows(cls, sampling: Sampling) -> Budget:
        """Of rollouts."""
        return cls(ROWS, sampling.max_rows)

    def run(self, work: Callable[[int], T], *optimizers: Adam) -> T:
        """What ``work`` returns, given the amount; where memory ran out, at last with less of it.

        It may add to the optimizers' gradients, which are empty before, and must not change
        anything else (random states included) before it can no longer run out. Raises TrainingError
        where little is too much.
        """
        while True:
            try:
                return work(self.amount)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                reason = memory_reason(error)
            # only now is what the failed pass held free: the error had kept it
            for optimizer in optimizers:
                optimizer.drop_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(reason)

    def rollout(
        self,
        sampler: Callable[..., Rollout],
        sampling: Sampling,
        make_generator: Callable[[], torch.Generator | None],
    ) -> Rollout:
        """What a sampler returns for the settings; every try has a generator made for it.

        Raises TrainingError as ``run`` does.
        """

        def respond(max_rows: int) -> Rollout:
            settings = sampling.model_dump() | {"max_rows": max_rows}
            return sampler(**settings, generator=make_generator())

        return self.run(respond)

    def _halve(self, reason: str) -> None:
        name, setting, least, changes = self.kind
        if self.amount < 2 * least:
            raise TrainingError(
                f"memory ran out with {self.amount} {name} at a time ({reason}): take a smaller "
                "model, shorter prompts and responses, or adapters (lora.rank = 16)"
            )
        self.amount //= 2
        print(
            f"memory ran out ({reason}): {self.amount} {name} at a time from here on, {changes}. "
            f"Next time give --{setting}={self.amount}",
            file=sys.stderr,
            flush=True,
        )
