"""A transformer body with a scalar head: the reward model and the value function.

Both are Hugging Face sequence classifiers with one label, so that any loader computes the score
that we compute. Shapes: M chosen positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from heedful.errors import ModelError
from heedful.models.kind import require_language_model, require_scalar_model
from heedful.models.language_model import load_config, load_weights

# Ridge of the constant direction, as a share of the mean squared hidden value.
CENTER_RIDGE = 1e-4


def load_scalar_model(
    path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """The scalar model saved in a directory, on our attention, in eval mode."""
    require_scalar_model(path)
    model: Any = _load(path, load_config(path), dtype)
    return model.to(device)


def scalar_model_from(
    path: Path | str, seed: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A scalar model with the body of a language model and a new head, N(0, 1/(d+1)), no bias.

    Source: Stiennon et al. 2020; openai/lm-human-preferences model.py:252. The final layer norm
    before the head stays. Raises ModelError where the directory holds a reward model: its head
    would be thrown away unsaid.
    """
    require_language_model(path)
    config = load_config(path)
    config.num_labels = 1
    model = _load(path, config, dtype, new=frozenset({"score.weight"}))
    head = head_of(model)
    generator = torch.Generator().manual_seed(seed)
    std = (head.weight.shape[1] + 1) ** -0.5
    head.weight.data.copy_(torch.randn(head.weight.shape, generator=generator) * std)
    return model


def _load(
    path: Path | str, config: object, dtype: torch.dtype, new: frozenset[str] = frozenset()
) -> PreTrainedModel:
    model = load_weights(
        AutoModelForSequenceClassification, path, config, dtype, "a scalar model", new
    )
    head_of(model)
    return model


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The scalar head; ModelError where the architecture keeps it elsewhere."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear head named score: not supported yet"
        )
    return head


def scalars(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(M,) fp32 scalars at hidden states (M, D)."""
    return F.linear(hidden.float(), head_of(model).weight.float())[:, 0]


@torch.no_grad()
def center(
    model: PreTrainedModel,
    hidden: Tensor,
    master_of: Callable[[Tensor], Tensor] = lambda parameter: parameter.data,
) -> dict[str, float]:
    """Folds a bias into the head so that the given hidden states (M, D) score 0 on average.

    The paper (3.5) adds a bias with which labeler demonstrations have mean score 0. Hugging Face
    heads have no bias, so the head moves along the direction v with v . h = 1 as nearly as least
    squares can have it (hidden states are far from centered, so it is close), scaled to be exact
    for the mean. Returns the bias and ``spread``, the standard deviation of v . h: how much the
    fold differs from a true bias, per unit of bias. Where the final norm has a bias (GPT-2), the
    fold is exact: that bias is used instead. ``master_of`` gives a parameter's tensor to change.
    """
    weight = master_of(head_of(model).weight)[0]  # (D,) changed in place
    hidden = hidden.to(weight.device, torch.float32)
    bias = -float((hidden @ weight).mean())
    norm_bias = _final_norm_bias(model)
    if norm_bias is not None and norm_bias.requires_grad:  # frozen beside LoRA adapters
        master_of(norm_bias).add_((bias * weight / weight.square().sum()).to(norm_bias.dtype))
        return {"bias": bias, "spread": 0.0}
    ridge = CENTER_RIDGE * float(hidden.square().mean()) * len(hidden)
    gram = hidden.T @ hidden + ridge * torch.eye(hidden.shape[1], device=hidden.device)
    direction = torch.linalg.solve(gram, hidden.sum(0))
    constant = hidden @ direction
    direction /= constant.mean()
    weight.add_((bias * direction).to(weight.dtype))
    return {"bias": bias, "spread": float((hidden @ direction).std())}


def _final_norm_bias(model: PreTrainedModel) -> nn.Parameter | None:
    for name in ("ln_f", "final_layer_norm", "final_layernorm", "norm"):
        norm = getattr(model.base_model, name, None)
        if norm is not None:
            return getattr(norm, "bias", None)
    return None
