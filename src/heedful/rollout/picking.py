"""How the next tokens are drawn from logits.

Shapes: A rows in the batch, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Draws:
    """Uniform numbers on a device, one for each row and token, decided by a generator.

    On the processor they are the generator's own. An accelerator draws its own, from a seed that
    the generator gives: other numbers, but the same every time.
    """

    def __init__(self, generator: torch.Generator | None, device: torch.device):
        self.device, self.generator = device, generator
        if device.type != "cpu":
            own = "cpu" if generator is None else generator.device
            seed = int(torch.randint(2**62, (1,), generator=generator, device=own))
            self.generator = torch.Generator(device).manual_seed(seed)

    def next(self, num_rows: int) -> Tensor:
        """(A, 1) numbers from 0 to below 1."""
        return torch.rand(num_rows, 1, generator=self.generator, device=self.device)


def pick(
    z: Tensor, temperature: float, top_p: float, uniform: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token per row of logits (A, V), and its log-probability: (A,), (A,).

    Inverse-CDF sampling: one uniform number per row, (A, 1), against the cumulative probabilities.
    temperature 0 takes the likeliest and needs none.
    """
    if temperature > 0 and temperature != 1.0:
        z = z / temperature
    if temperature == 0:
        tokens = z.argmax(dim=-1)
        return tokens, z.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(z, dim=-1)
    assert uniform is not None  # whoever draws brings the numbers
    p = torch.softmax(z, dim=-1)
    tokens = _nucleus(p, top_p, uniform) if top_p < 1.0 else _inverse_cdf(p, uniform)
    return tokens, p.gather(1, tokens[:, None])[:, 0].log_()


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """(A,) tokens drawn in proportion to weights (A, V) by uniform (A, 1).

    First a block of tokens, then a token of the block: a running sum over the whole vocabulary
    takes ten times as long as its sums by block.
    """
    width = math.isqrt(weights.shape[1])
    whole = weights.shape[1] // width * width
    sums = weights[:, :whole].unflatten(1, (-1, width)).sum(-1)
    if whole < weights.shape[1]:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], dim=1)
    block, rest = _locate(sums, uniform * sums.sum(-1, keepdim=True))
    last = weights.shape[1] - 1  # once more in the cells past it, where nothing is to be found
    tokens = (block * width + torch.arange(width, device=weights.device)).clamp_(max=last)
    return tokens.gather(1, _locate(weights.gather(1, tokens), rest)[0])[:, 0]


def _locate(weights: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """(A, 1) where point (A, 1) falls among weights (A, C) laid end to end, and how far into it.

    A weight of 0 has no room and is never found, nor is anything past the last that has some.
    Among weights that are no numbers it is the last: whoever looks at log-probabilities will see.
    """
    ends = weights.cumsum(-1)
    before_end = torch.nextafter(ends[:, -1:], torch.zeros_like(point))
    found = torch.searchsorted(ends, torch.minimum(point, before_end), right=True)
    found.clamp_(max=weights.shape[1] - 1)
    return found, (point - (ends - weights).gather(1, found)).clamp_(min=0.0)


def _nucleus(probabilities: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """Draws among the fewest tokens whose probability reaches top_p (Holtzman et al. 2020)."""
    ordered, index = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    chosen = _inverse_cdf(ordered.masked_fill(before >= top_p, 0.0), uniform)
    return index.gather(1, chosen[:, None])[:, 0]
