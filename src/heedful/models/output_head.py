"""The output head: logits, and log-probabilities of tokens without ever holding all logits.

Shapes: M chosen positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from heedful.models.device import upload
from heedful.models.prepacked import can_prepack, prepacked, product

# Logits that exist at one time: 32 MiB of fp32; on an accelerator 512, as small products idle it.
LOGIT_CELLS = 8 * 2**20
LOGIT_CELLS_ON_ACCELERATORS = 128 * 2**20
# Rows of logits begin at multiples of this on an accelerator: vocabularies grow by odd tokens.
ALIGNMENT = 64
# Gradients of logits that wait for their products: 128 MiB in the dtype of the model.
GRADIENT_BYTES = 128 * 2**20
# Cells of the weight that are prepacked at a time: 64 MiB of fp32.
PREPACK_CELLS = 16 * 2**20
# Products with a head by so many rows in all save more than the prepacking takes: about twice.
PREPACK_ROWS = 2048

# The loss of some tokens from their log-probabilities (m,), and which of all M they are. The losses
# of the parts add up to the whole's: sums over tokens do, means over those that are given do not.
LossOf = Callable[[Tensor, slice], Tensor]


class Transform(NamedTuple):
    """What an architecture does to its logits after the output embedding, and the temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0


_Embedding = tuple[Tensor, Tensor | None, Transform]


class Head(NamedTuple):
    """The output head of a model, ready to be multiplied."""

    parts: tuple[Tensor, ...]  # (V, D) fp32, by rows; bf16 where products of it can be fp32
    bias: Tensor | None  # (V,) fp32
    transform: Transform
    dtype: torch.dtype  # of the model: what the products are made of
    is_prepacked: bool = False  # the parts


def output_head(model: PreTrainedModel) -> Head:
    """The head of a model as it is now; where the processor computes in bf16, a copy in fp32."""
    return _plain(*_embedding(model))


@torch.no_grad()
def prepacked_head(model: PreTrainedModel) -> Head:
    """The head for many products with few positions each; the plain one where that is no faster."""
    weight, bias, transform = _embedding(model)
    return (_prepacked if can_prepack(weight) else _plain)(weight, bias, transform)


def _embedding(model: PreTrainedModel, temperature: float = 1.0) -> _Embedding:
    """The output embedding of a model, (V, D) and (V,) where it has a bias, and its transform."""
    head: Any = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None), logit_transform(model.config, temperature)


def _plain(weight: Tensor, bias: Tensor | None, transform: Transform) -> Head:
    part = weight if _multiplies_wide(weight) else weight.float()
    return Head((part,), _wide(bias), transform, weight.dtype)


def _prepacked(weight: Tensor, bias: Tensor | None, transform: Transform) -> Head:
    rows = max(1, PREPACK_CELLS // weight.shape[1])  # at a time: no second copy of all in fp32
    with products_of(weight.dtype):
        parts = tuple(prepacked(part.float()) for part in weight.detach().split(rows))
    return Head(parts, _wide(bias), transform, weight.dtype, is_prepacked=True)


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


@torch.no_grad()
def token_logprobs(
    model: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float = 1.0
) -> Tensor:
    """(M,) fp32 log-probabilities of tokens (M,) under the heads' distribution at hidden (M, D).

    They are where the hidden states are; the tokens may stand on the processor. The (M, V) logits
    never exist at once. No gradient flows: ``token_loss`` is for learning.
    """
    weight, bias, transform = _embedding(model, temperature)
    head = _head_for(len(hidden), weight, bias, transform)
    targets = upload(targets, hidden.device)
    logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
    for part in _slices(0, len(hidden), _rows_at_a_time(weight)):
        logprobs[part] = _chosen_(logits(head, hidden[part]), targets[part])
    return logprobs


def token_loss(
    model: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    loss_of: LossOf,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(scalar, (M,)) a loss that is a sum over tokens (M,), and their log-probabilities.

    ``loss_of`` is given the log-probabilities (m,) of some of the tokens and which they are, and
    returns the loss of these. It depends on no others, so its gradient is known as soon as their
    logits are: they are made once, in the forward pass, and the (M, V) logits never exist at once.
    The log-probabilities carry no gradient, and that of the loss can be taken once. Raises
    RuntimeError where none is made.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError("token_loss makes gradients: where none are wanted, token_logprobs")
    targets = upload(targets, hidden.device)
    weight, bias, transform = _embedding(model, temperature)
    return _TokenLoss.apply(hidden, weight, bias, targets, transform, loss_of)


class _TokenLoss(torch.autograd.Function):
    """Chunks of logits become chunks of their gradient; many of these at a time are multiplied."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, transform, loss_of):
        head = _head_for(len(hidden), weight, bias, transform)
        grads = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        total = logprobs.new_zeros(())
        for group in grads.groups:
            for part in _slices(group.start, group.stop, _rows_at_a_time(weight)):
                loss, logprobs[part], dz = _learn(head, hidden[part], targets[part], part, loss_of)
                total += loss
                grads.put(dz, part.start - group.start)
                del dz  # before the next logits are made
            grads.add(group)
        ctx.grads = grads.sums()
        ctx.mark_non_differentiable(logprobs)
        return total, logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        if ctx.grads is None:
            raise RuntimeError("the gradient of a token_loss can be taken once")
        grads, ctx.grads = ctx.grads, None  # not kept for as long as someone holds the loss
        if grad.device.type != "cpu" or float(grad) != 1.0:
            grads = tuple(None if of is None else of.mul_(grad) for of in grads)
        return *grads, None, None, None


def _learn(
    head: Head, hidden: Tensor, targets: Tensor, part: slice, loss_of: LossOf
) -> tuple[Tensor, Tensor, Tensor]:
    """(scalar, (m,), (m, V)) the loss of some tokens, their log-probabilities, and the loss's
    gradient by what the output embedding gives."""
    z = logits(head, hidden)
    slope = _slope(z, head.transform)
    logprobs = _chosen_(z, targets)
    with torch.enable_grad():
        own = logprobs.detach().requires_grad_()
        loss = loss_of(own, part)
        (outer,) = torch.autograd.grad(loss, own)
    # d logprob[target] / dz = onehot - softmax
    dz = z.mul_(-outer[:, None]).scatter_add_(1, targets[:, None], outer[:, None])
    if isinstance(slope, Tensor) or slope != 1.0:
        dz.mul_(slope)
    return loss.detach(), logprobs, dz


class _Gradients:
    """The gradients of a head's inputs, from groups of rows of the logits' gradient.

    A product of few rows by the whole vocabulary costs more than its arithmetic: the weight is read
    and its gradient added to the sum. So chunks are rounded to the dtype of the factors, which the
    products do anyway, and gathered.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]
    ):
        self.inputs, self.needs_weight = (hidden, weight), needed[1]
        on_cpu = weight.device.type == "cpu"
        gathered = GRADIENT_BYTES // (len(weight) * hidden.element_size()) if on_cpu else 0
        self.groups = list(_slices(0, len(hidden), max(_rows_at_a_time(weight), gathered)))
        rows = self.groups[0].stop if self.groups else 0  # the first is the largest
        make = torch.empty if on_cpu else _aligned
        self.space = make(rows, len(weight), dtype=hidden.dtype, device=hidden.device)
        self.by_hidden = torch.empty_like(hidden) if needed[0] else None
        self.by_weight: Tensor | None = None
        is_packed = _is_worth_packing(len(hidden), weight)
        self.transposed = prepacked(weight.t()) if is_packed and needed[0] else None
        self.by_bias = None
        if bias is not None and needed[2]:
            self.by_bias = torch.zeros_like(bias, dtype=torch.float32)

    def put(self, dz: Tensor, row: int) -> None:
        """Keeps the gradient of some logits (m, V) from a row of the group on, until ``add``."""
        if self.by_bias is not None:
            self.by_bias += dz.sum(0)
        self.space[row : row + len(dz)] = dz

    def add(self, group: slice) -> None:
        """Adds what the logits' gradients of a whole group, rows of the hidden states, give."""
        hidden, weight = self.inputs
        dz = self.space[: group.stop - group.start]
        if self.by_hidden is not None:
            packed = self.transposed
            self.by_hidden[group] = dz @ weight if packed is None else product(dz, packed)
        if self.needs_weight:
            found = dz.t() @ hidden[group]
            if self.by_weight is None:
                self.by_weight = found
            else:  # more than one group: sums in fp32
                self.by_weight = self.by_weight.float().add_(found)

    def sums(self) -> tuple[Tensor | None, ...]:
        """The gradients of (hidden, weight, bias), in the dtype of the inputs."""
        dtype = self.inputs[0].dtype
        grads = (self.by_hidden, self.by_weight, self.by_bias)
        return tuple(None if of is None else of.to(dtype) for of in grads)


def _chosen_(z: Tensor, targets: Tensor) -> Tensor:
    """(m,) log-probabilities of tokens (m,) by logits (m, V), which become probabilities."""
    chosen = z.gather(1, targets[:, None])[:, 0]
    return chosen.sub_(probabilities_(z))


def probabilities_(z: Tensor) -> Tensor:
    """(M,) logarithms of the sums of exponentials of logits (M, V), which become probabilities."""
    largest = z.amax(-1)
    if z.device.type == "cpu":  # its kernel reads each row before it writes it
        torch.softmax(z, dim=-1, out=z)
        # that of the largest logit is exp(0) over the sum
        return largest.sub_(z.amax(-1).log_())
    total = z.sub_(largest[:, None]).exp_().sum(-1)
    z.div_(total[:, None])
    return largest.add_(total.log_())


def _slope(z: Tensor, transform: Transform) -> Tensor | float:
    """How much logits z (M, V) change with what the output embedding gives."""
    scale, softcap, temperature = transform
    if softcap is None:
        return scale / temperature
    tanh = z * (temperature / softcap)
    return tanh.square_().neg_().add_(1.0).mul_(scale / temperature)


def _head_for(rows: int, weight: Tensor, bias: Tensor | None, transform: Transform) -> Head:
    """The head for products with hidden states of so many rows in all."""
    make = _prepacked if _is_worth_packing(rows, weight) else _plain
    return make(weight, bias, transform)


def _is_worth_packing(rows: int, weight: Tensor) -> bool:
    return rows >= PREPACK_ROWS and can_prepack(weight)


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


def _rows_at_a_time(weight: Tensor) -> int:
    on_cpu = weight.device.type == "cpu"
    return max(1, (LOGIT_CELLS if on_cpu else LOGIT_CELLS_ON_ACCELERATORS) // weight.shape[0])


def _slices(start: int, stop: int, most: int) -> Iterator[slice]:
    """As few slices as hold at most so many each, of equal length but the last."""
    count = math.ceil((stop - start) / most)
    step = math.ceil((stop - start) / max(1, count))
    for i in range(count):
        yield slice(start + i * step, min(start + (i + 1) * step, stop))


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
