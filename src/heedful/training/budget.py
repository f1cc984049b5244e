"""How many tokens go through a model at a time: as many as are set, fewer where memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from heedful.config import Compute
from heedful.errors import TrainingError
from heedful.memory import out_of_memory
from heedful.models.device import tokens_at_a_time
from heedful.training.loop import Adam

# Micro-batches get no smaller than this: by then each is a sequence or two.
LEAST_TOKENS = 256

T = TypeVar("T")


class Budget:
    """The tokens of a micro-batch: halved for good where memory runs out.

    Micro-batches change no result, so what was begun with too many is done again with fewer.
    """

    def __init__(self, compute: Compute):
        self.tokens = tokens_at_a_time(compute)

    def run(self, work: Callable[[int], T], *optimizers: Adam) -> T:
        """What ``work`` returns, given the tokens of a micro-batch.

        It may add to the optimizers' gradients, which are empty before, and must not change
        anything else before it can no longer run out. TrainingError where few tokens are too many.
        """
        while True:
            try:
                return work(self.tokens)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).partition(". ")[0]
            # only now is what the failed pass held free: the error had kept it
            for optimizer in optimizers:
                optimizer.drop_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(reason)

    def _halve(self, reason: str) -> None:
        if self.tokens < 2 * LEAST_TOKENS:
            raise TrainingError(
                f"memory ran out with {self.tokens} tokens at a time ({reason}): take a smaller "
                "model, shorter prompts and responses, or adapters (lora.rank = 16)"
            )
        self.tokens //= 2
        print(
            f"memory ran out ({reason}): {self.tokens} tokens at a time from here on, which "
            f"changes no result. Next time give --compute.tokens-per-microbatch={self.tokens}",
            file=sys.stderr,
            flush=True,
        )
