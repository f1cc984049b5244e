"""The output head: logits, and log-probabilities of tokens without ever holding all logits.

Shapes: M chosen positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from heedful.models.device import upload
from heedful.models.prepacked import can_prepack, prepacked, product

# Logits that exist at one time: 32 MiB of fp32; on an accelerator 512, as small products idle it.
LOGIT_CELLS = 8 * 2**20
LOGIT_CELLS_ON_ACCELERATORS = 128 * 2**20
# Rows of logits begin at multiples of this on an accelerator: vocabularies grow by odd tokens.
ALIGNMENT = 64
# Cells of the weight that are prepacked at a time: 64 MiB of fp32.
PREPACK_CELLS = 16 * 2**20


class Transform(NamedTuple):
    """What an architecture does to its logits after the output embedding, and the temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0


class Head(NamedTuple):
    """The output head of a model, ready to be multiplied."""

    parts: tuple[Tensor, ...]  # (V, D) fp32, by rows; bf16 where products of it can be fp32
    bias: Tensor | None  # (V,) fp32
    transform: Transform
    dtype: torch.dtype  # of the model: what the products are made of
    is_prepacked: bool = False  # the parts


def output_head(model: PreTrainedModel) -> Head:
    """The head of a model as it is now; where the processor computes in bf16, a copy in fp32."""
    head: Any = model.get_output_embeddings()
    return _head(head.weight, getattr(head, "bias", None), logit_transform(model.config))


@torch.no_grad()
def prepacked_head(model: PreTrainedModel) -> Head:
    """The head for many products with few positions each; the plain one where that is no faster."""
    head: Any = model.get_output_embeddings()
    weight = head.weight
    if not can_prepack(weight):
        return output_head(model)
    rows = max(1, PREPACK_CELLS // weight.shape[1])  # at a time: no second copy of all in fp32
    with products_of(weight.dtype):
        parts = tuple(prepacked(part.float()) for part in weight.split(rows))
    bias, transform = _wide(getattr(head, "bias", None)), logit_transform(model.config)
    return Head(parts, bias, transform, weight.dtype, is_prepacked=True)


def logits(head: Head, hidden: Tensor) -> Tensor:
    """(M, V) fp32 logits at hidden (M, D)."""
    multiply = product if head.is_prepacked else F.linear
    if _multiplies_wide(head.parts[0]):
        products = [_wide_product(hidden, part) for part in head.parts]
    else:
        hidden = hidden.float()
        with products_of(head.dtype):
            products = [multiply(hidden, part) for part in head.parts]
    z = products[0] if len(products) == 1 else torch.cat(products, dim=1)
    if head.bias is not None:
        z.add_(head.bias)
    scale, softcap, temperature = head.transform
    if softcap is None:
        return z if scale == temperature else z.mul_(scale / temperature)
    return z.mul_(scale / softcap).tanh_().mul_(softcap / temperature)


def logit_transform(config: Any, temperature: float = 1.0) -> Transform:
    """The transform of an architecture's logits."""
    text_config = config.get_text_config()
    scale = float(getattr(text_config, "logit_scale", None) or 1.0)  # Cohere
    scale /= float(getattr(text_config, "logits_scaling", None) or 1.0)  # Granite
    softcap = getattr(text_config, "final_logit_softcapping", None)  # Gemma 2, 3
    return Transform(scale, softcap, temperature)


def token_logprobs(
    model: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    equal_weights: bool = False,
) -> Tensor:
    """(M,) fp32 log-probabilities of tokens (M,) under the heads' distribution at hidden (M, D).

    They are where the hidden states are; the tokens may stand on the processor.
    The (M, V) logits never exist at once: chunks are computed, used and dropped, in the forward and
    again in the backward pass. A caller whose loss weighs all of them alike (a sum or mean) says so
    with ``equal_weights``: the gradient is then made in the forward pass, from the same logits,
    and its backward pass raises ValueError where the weights differ after all.
    """
    head: Any = model.get_output_embeddings()
    transform = logit_transform(model.config, temperature)
    bias = getattr(head, "bias", None)
    targets = upload(targets, hidden.device)
    chunked = _SummedLogprobs if equal_weights and torch.is_grad_enabled() else _ChunkedLogprobs
    return chunked.apply(hidden, head.weight, bias, targets, transform)


class _ChunkedLogprobs(torch.autograd.Function):
    """Logits are made twice: whatever weighs the log-probabilities is known only afterwards."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, transform):
        head = _head(weight, bias, transform)
        logprobs, normalizer = hidden.new_empty(2, len(hidden), dtype=torch.float32)
        for part in _chunks(hidden, weight):
            z = logits(head, hidden[part])
            logprobs[part] = z.gather(1, targets[part, None])[:, 0]
            normalizer[part] = exponentials_(z)[0]
        logprobs -= normalizer
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.transform = transform
        return logprobs

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        head = _head(weight, bias, ctx.transform)
        grads = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        for part in _chunks(hidden, weight):
            z = logits(head, hidden[part])
            slope = _slope(z, ctx.transform)
            z.sub_(normalizer[part, None]).exp_()
            grads.add(part, z, grad[part, None], grad[part, None], targets[part], slope)
        return *grads.times(1.0), None, None


class _SummedLogprobs(torch.autograd.Function):
    """Logits are made once: the gradient of the sum is ready before the backward pass."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, transform):
        head = _head(weight, bias, transform)
        grads = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        one = logprobs.new_ones(1, 1)
        for part in _chunks(hidden, weight):
            z = logits(head, hidden[part])
            slope, chosen = _slope(z, transform), z.gather(1, targets[part, None])[:, 0]
            normalizer, total = exponentials_(z)
            logprobs[part] = chosen - normalizer
            grads.add(part, z, total.reciprocal_(), one, targets[part], slope)
        ctx.grads = grads
        return logprobs

    @staticmethod
    def backward(ctx, grad):
        if not torch.equal(grad, grad[:1].expand_as(grad)):
            raise ValueError(
                "equal_weights was promised, but the log-probabilities' weights differ"
            )
        grads, ctx.grads = ctx.grads, None  # not kept for as long as someone holds the loss
        return *grads.times(grad[0] if len(grad) else grad.new_zeros(())), None, None


class _Gradients:
    """The gradients of a head's inputs, summed over chunks in fp32."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]
    ):
        self.inputs = (hidden, weight)
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        self.bias = None
        if bias is not None and needed[2]:
            self.bias = torch.zeros_like(bias, dtype=torch.float32)

    def add(
        self,
        part: slice,
        p: Tensor,
        scale: Tensor,
        grad: Tensor,
        targets: Tensor,
        slope: Tensor | float,
    ) -> None:
        """Adds a chunk's, of log-probabilities with the weights grad (m or 1, 1).

        d logprob[target] / dz = onehot - softmax. p (m, V), which is used up, times scale (m, 1) is
        grad times softmax; ``slope`` is that of the logits over what the embedding gives.
        """
        dz = p.mul_(-scale)
        dz.scatter_add_(1, targets[:, None], grad.expand(len(p), 1))
        if isinstance(slope, Tensor) or slope != 1.0:
            dz.mul_(slope)
        if self.bias is not None:
            self.bias += dz.sum(0)
        hidden, weight = self.inputs
        if dz.device.type == "cuda" and dz.shape[1] % ALIGNMENT:
            dz = _aligned(len(dz), dz.shape[1], hidden.dtype, dz.device).copy_(dz)
        dz = dz.to(hidden.dtype)
        if self.hidden is not None:
            self.hidden[part] = dz @ weight
        if self.weight is not None:
            self.weight += dz.t() @ hidden[part]

    def times(self, factor: Tensor | float) -> tuple[Tensor | None, ...]:
        """(hidden, weight, bias) gradients times a number, in the dtype of the inputs; once."""
        dtype = self.inputs[0].dtype
        grads = (self.hidden, self.weight, self.bias)
        self.hidden = self.weight = self.bias = None
        return tuple(None if g is None else g.mul_(factor).to(dtype) for g in grads)


def exponentials_(z: Tensor) -> tuple[Tensor, Tensor]:
    """((M,) normalizers, (M, 1) sums) of logits (M, V), which become exp(z - their largest).

    One pass of exponentials gives log-sum-exp and softmax: the new z over its sums.
    """
    largest = z.amax(-1, keepdim=True)
    total = z.sub_(largest).exp_().sum(-1, keepdim=True)
    return (largest + total.log())[:, 0], total


def _slope(z: Tensor, transform: Transform) -> Tensor | float:
    """How much logits z (M, V) change with what the output embedding gives."""
    scale, softcap, temperature = transform
    if softcap is None:
        return scale / temperature
    tanh = z * (temperature / softcap)
    return tanh.square_().neg_().add_(1.0).mul_(scale / temperature)


def _head(weight: Tensor, bias: Tensor | None, transform: Transform) -> Head:
    part = weight if _multiplies_wide(weight) else weight.float()
    return Head((part,), _wide(bias), transform, weight.dtype)


def _multiplies_wide(weight: Tensor) -> bool:
    """Whether products of 16 bits can be had in fp32: on CUDA; elsewhere factors are widened."""
    return weight.device.type == "cuda" and weight.dtype in (torch.bfloat16, torch.float16)


def _wide_product(hidden: Tensor, weight: Tensor) -> Tensor:
    """(M, V) fp32: the sums of bf16 products are fp32 in the unit that makes them."""
    out = _aligned(len(hidden), len(weight), torch.float32, weight.device)
    factors = (hidden.to(weight.dtype), weight.detach().t())
    return torch.mm(*factors, out_dtype=torch.float32, out=out)


def _aligned(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(rows, columns) of space, every row beginning where matrix units read fastest."""
    width = -(-columns // ALIGNMENT) * ALIGNMENT
    return torch.empty(rows, width, dtype=dtype, device=device)[:, :columns]


def _wide(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    on_cpu = weight.device.type == "cpu"
    rows = max(1, (LOGIT_CELLS if on_cpu else LOGIT_CELLS_ON_ACCELERATORS) // weight.shape[0])
    for start in range(0, len(hidden), rows):
        yield slice(start, start + rows)


@contextlib.contextmanager
def products_of(dtype: torch.dtype) -> Iterator[None]:
    """On a processor, fp32 tensors that came from bf16 multiply through the bf16 units, summed and
    kept in fp32.

    Nothing is lost in the inputs, and the logits keep the digits that bf16 output would round away.
    """
    if dtype != torch.bfloat16:
        yield
        return
    mkldnn: Any = torch.backends.mkldnn  # matmul is missing in its type hints
    before = mkldnn.matmul.fp32_precision
    try:
        mkldnn.matmul.fp32_precision = "bf16"
        yield
    finally:
        mkldnn.matmul.fp32_precision = before
