"""The keys and values of rows that are being decoded.

Shapes: G key/value heads, D head size, S cache slots, T tokens, A first rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from heedful.models.device import free_bytes_of
from heedful.models.varlen import can_varlen_decode

# By how many slots a cache grows: attention looks at all of them, and growing copies the cache.
# On an accelerator a cache that has grown needs other graphs.
SLOTS_AT_A_TIME = 16
SLOTS_ON_ACCELERATORS = 128
# What a cache takes at once of an accelerator's free memory, where attention looks at what is used.
SHARE = 0.5


class KeyValueCache:
    """Keys (rows, G, D, S) and values (rows, G, S, D) of every layer.

    Keys lie with their slots side by side, as the product of one query with all of them reads them.
    There are hardly more slots than are used, ``reserve`` adds some: a product over a part of
    the slots would copy that part first. A layer's tensors are its own, so that no more than one
    is there twice while the cache grows.

    ``is_by_slot``: where a kernel reads no more of a row than is used, both are (rows, S, G, D),
    and all the slots that will be ``needed`` are there from the start, if they fit the memory.
    """

    def __init__(
        self,
        config: Any,
        rows: int,
        slots: int,
        dtype: torch.dtype,
        device: Any = "cpu",
        needed: int = 0,
    ):
        text_config = config.get_text_config()
        heads = text_config.num_attention_heads
        groups = getattr(text_config, "num_key_value_heads", None) or heads
        size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        self.dtype, self.device = dtype, torch.device(device)
        self.is_by_slot = can_varlen_decode(text_config, size, dtype, self.device)
        layers = range(text_config.num_hidden_layers)
        if self.is_by_slot:
            slot_bytes = 2 * len(layers) * rows * groups * size * dtype.itemsize
            slots = needed if needed * slot_bytes <= SHARE * free_bytes_of(self.device) else slots
        self.num_rows, self.num_slots = rows, slots
        shapes = ((rows, groups, size, slots), (rows, groups, slots, size))
        if self.is_by_slot:
            shapes = ((rows, slots, groups, size),) * 2
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in layers] for shape in shapes
        )

    def write(self, layer: int, rows: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Puts k and v (T, G, D) of T tokens into their rows (T,) and slots (T,)."""
        if self.is_by_slot:
            self.keys[layer][rows, slots] = k.to(self.dtype)
            self.values[layer][rows, slots] = v.to(self.dtype)
        else:
            self.keys[layer][rows, :, :, slots] = k.to(self.dtype)
            self.values[layer][rows, :, slots] = v.to(self.dtype)

    def reserve(self, slots: int) -> None:
        """Makes room for ``slots`` slots and some more, unless it is there; drops other rows."""
        if slots > self.num_slots:
            step = SLOTS_AT_A_TIME if self.device.type == "cpu" else SLOTS_ON_ACCELERATORS
            more = -(-(slots - self.num_slots) // step) * step
            self.num_slots += more
            of_values = (0, 0, 0, 0, 0, more) if self.is_by_slot else (0, 0, 0, more)
            of_keys = of_values if self.is_by_slot else (0, more)
            for layer in range(len(self.keys)):
                keys, values = self.keys[layer], self.values[layer]
                self.keys[layer] = F.pad(keys[: self.num_rows], of_keys)
                self.values[layer] = F.pad(values[: self.num_rows], of_values)

    def keep_rows(self, rows: int) -> None:
        """Says that the first ``rows`` rows are all that is needed from now on."""
        self.num_rows = min(self.num_rows, rows)

    def move_rows(self, source: Tensor, target: Tensor, used: int) -> None:
        """Copies the first ``used`` slots of rows ``source`` over rows ``target``."""
        for keys, values in zip(self.keys, self.values, strict=True):
            if self.is_by_slot:
                keys[target, :used] = keys[source, :used]
                values[target, :used] = values[source, :used]
            else:
                keys[target, ..., :used] = keys[source, ..., :used]
                values[target, :, :used] = values[source, :, :used]
