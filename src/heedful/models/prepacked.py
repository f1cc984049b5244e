"""Weights in the order that the processor multiplies in, for many products by the same weight.

oneDNN brings a weight into that order in every product. For the few rows of a decoding step that
takes up to half of the time, and for an output head, of which some hundred rows are computed at a
time, a tenth. Where weights stay as they are for a while, as in a rollout or within a micro-batch,
they are brought there once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Layers are copied up to this size in all: a model that hardly fits the memory stays as it is.
MAX_LAYER_BYTES = 2**30


def can_prepack(weight: Tensor) -> bool:
    """Whether it is worth it and can be done: in bf16, on a processor on which oneDNN does that."""
    is_ours = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    is_there = is_ours and torch.backends.mkldnn.is_available()
    return is_there and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def prepacked(weight: Tensor) -> Tensor:
    """A copy of a weight (D out, D in) that only ``product`` can read."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., D out) what F.linear gives for hidden (..., D in); without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")


@contextlib.contextmanager
def prepacked_layers(model: Any) -> Iterator[None]:
    """The linear layers of a model, but its head, multiply by copies of their weights as of now.

    The copies take the memory of these weights once more, and are made only up to MAX_LAYER_BYTES.
    A layer that somebody has given a forward of its own keeps it.
    """
    head = model.get_output_embeddings()
    linear = [one for one in model.modules() if type(one) is nn.Linear and one is not head]
    layers = [one for one in linear if can_prepack(one.weight) and "forward" not in vars(one)]
    if sum(one.weight.nbytes for one in layers) > MAX_LAYER_BYTES:
        layers = []
    try:
        for layer in layers:
            mine = partial(product, weight=prepacked(layer.weight), bias=layer.bias)
            vars(layer)["forward"] = mine
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # its class has its own
