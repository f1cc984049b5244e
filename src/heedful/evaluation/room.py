"""How much is computed at a time: what the free memory holds, less from there on where it ran out.

Legend: T tokens of a packed batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from heedful.errors import EvaluationError
from heedful.memory import memory_reason
from heedful.models.device import device_of, free_bytes_of

# What a batch, or the cache of a rollout, takes at most of the memory that is free when it begins.
SHARE = 0.25
MAX_ROWS = 512
# What the cache of a rollout takes where tokens are drawn: which row draws when depends on how many
# rows there are, so these must not follow from what else the machine is doing.
DRAWING_BYTES = 2 * 2**30
# Rows as wide as the hidden states, and as the MLP, that one layer holds at a time for a token.
HIDDEN_ROWS, MLP_ROWS = 8, 3


@dataclass
class Room:
    """The tokens and the rows of a batch at most; halved for good where memory runs out.

    What the free memory holds is another limit, found anew for each call and not kept.
    """

    tokens: int
    rows: int = MAX_ROWS

    def halve_tokens(self, error: Exception, num_items: int, num_tokens: int) -> None:
        """Half of ``num_tokens``, the limit that was too high, from here on.

        EvaluationError where the batch was a single item.
        """
        _require_several(error, num_items)
        self.tokens = max(1, num_tokens // 2)

    def halve_rows(self, error: Exception, num_rows: int) -> None:
        """Half the rows of the rollout that failed; EvaluationError where it was a single one."""
        _require_several(error, num_rows)
        self.rows = num_rows // 2


def _require_several(error: Exception, num_items: int) -> None:
    if num_items < 2:
        raise EvaluationError(
            f"memory ran out on a single item ({memory_reason(error)}): take a smaller model, "
            "shorter prompts (fewer shots) or compute.dtype=bfloat16"
        ) from error


def tokens_that_fit(model: Any, longest: int) -> int:
    """Tokens that can be read at a time, in sequences of at most ``longest``."""
    return max(1, int(SHARE * free_bytes(device_of(model))) // _token_bytes(model, longest))


def rows_that_fit(model: Any, num_prompt: int, num_new: int, is_drawn: bool = False) -> int:
    """Sequences that are decoded at a time: their cache, and their prompts while they are read.

    Where tokens are drawn it follows from the model and the lengths alone.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    slot_bytes = 2 * config.num_hidden_layers * groups * size * _item_bytes(model)
    row_bytes = slot_bytes * (num_prompt + num_new) + num_prompt * _token_bytes(model, num_prompt)
    held = DRAWING_BYTES if is_drawn else int(SHARE * free_bytes(device_of(model)))
    return max(1, min(MAX_ROWS, held // row_bytes))


def _token_bytes(model: Any, longest: int) -> int:
    """Memory that a token takes in the layer that is computed, its attention scores included."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    mlp = getattr(config, "intermediate_size", None) or 4 * hidden
    scores = 2 * config.num_attention_heads * longest
    return _item_bytes(model) * (HIDDEN_ROWS * hidden + MLP_ROWS * mlp + scores)


def _item_bytes(model: Any) -> int:
    return torch.finfo(model.dtype).bits // 8


def free_bytes(device: torch.device) -> int:
    """Memory that a device can still give.

    Of a processor what can be taken without swapping; half of it all where the system does not say.
    """
    if device.type == "cuda":
        return free_bytes_of(device)
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    if found:
        return found[0] * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
