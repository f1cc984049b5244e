"""LoRA adapters (peft) inside a model: few trained weights, and a reference policy for free.

The adapters are injected into the model's own modules, so the model stays what it was to everything
else. With its adapters off it is the model it started from: the reference of step 3 needs no copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from heedful.errors import ConfigError, MissingExtraError


def add_adapters(model: Any, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Freezes the model and gives its linear modules adapters of this rank, off to a start at 0.

    ``targets`` are names of modules; empty takes peft's choice for the architecture. A scalar head
    stays trainable. Raises ConfigError where no module has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("peft is needed for LoRA: pip install 'heedful[train]'") from error
    head = getattr(model, "score", None)
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (any number serves)
        target_modules=list(targets) or None,
        # GPT-2's linear modules keep their weights transposed
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(settings, model)
        except ValueError as error:
            raise ConfigError(f"lora.targets = {list(targets)}: {error}") from error
    if head is not None:
        head.requires_grad_(True)


def has_adapters(model: Any) -> bool:
    """Whether ``add_adapters`` was called on the model."""
    return any(True for _ in _adapters(model))


@contextlib.contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Within, the model is the one it was before its adapters."""
    layers = list(_adapters(model))
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@torch.no_grad()
def merge_adapters_into(plain: Any, trained: Any) -> None:
    """Adds the change that ``trained``'s adapters make to the fp32 weights of ``plain``.

    ``plain`` is the model that ``trained`` was before its adapters; weights that were trained
    themselves (a scalar head) are copied.
    """
    for name, module in trained.named_modules():
        if _is_adapter(module):
            (adapter,) = module.active_adapters
            change = module.get_delta_weight(adapter)
            weight = plain.get_submodule(name).weight
            weight.add_(change.to(weight.device, torch.float32))
    head = getattr(trained, "score", None)
    if head is not None:
        plain.score.weight.copy_(head.weight)


def _adapters(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if _is_adapter(module))


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")
