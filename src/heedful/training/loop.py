"""What the steps share: the optimizer, the learning rate, seeds, micro-batches. Plain functions and
one class; every step keeps its own loop.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heedful.errors import TrainingError
from heedful.memory import device_peak_gib, peak_gib
from heedful.models.device import CPU

NON_FINITE_FILE = "non_finite_batch.pt"


class Adam:
    """AdamW on fp32 master weights, flat, for a model that computes in fp32 or bf16.

    All trainable weights live in one buffer of the compute dtype, of which the model's parameters
    are views; in fp32 it is the masters themselves. A backward pass adds every gradient to an fp32
    sum as soon as it is known, so micro-batches lose nothing to bf16, and bf16 gradients never
    exist all at once; ``step`` clips that sum and updates the masters. Without fp32 masters,
    updates at PPO's learning rates would round away.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.sizes = [parameter.numel() for _, parameter in named]
        self.max_grad_norm = max_grad_norm
        first = named[0][1]
        total = sum(self.sizes)
        self.master = nn.Parameter(torch.empty(total, dtype=torch.float32, device=first.device))
        self.weights = self.master.data
        if first.dtype != torch.float32:
            self.weights = torch.empty(total, dtype=first.dtype, device=first.device)
        self.collected = torch.zeros_like(self.master)  # the sum of gradients
        self.master.grad = self.collected
        self._hooks = []
        weights, sums = self.weights.split(self.sizes), self.collected.split(self.sizes)
        for parameter, own, total_grad in zip(self.parameters, weights, sums, strict=True):
            view = own.view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            self._collect_of(parameter, total_grad.view(parameter.shape))
        if not self._is_fp32:
            self.master.data.copy_(self.weights)
        self._adam = torch.optim.AdamW(
            [self.master], lr=0.0, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
        )
        # has its moments made now, by a step that changes nothing: what does not fit fails here
        self._adam.step()
        self._adam.state[self.master]["step"].zero_()

    @property
    def _is_fp32(self) -> bool:
        return self.weights.dtype == torch.float32

    def _collect_of(self, parameter: Tensor, sums: Tensor) -> None:
        """Has backward passes add the gradients of a parameter to ``sums``."""
        if self._is_fp32:
            parameter.grad = sums
            return

        def add(of: Tensor) -> None:
            assert of.grad is not None  # it has just been made
            sums.add_(of.grad)
            of.grad = None

        parameter.grad = None
        self._hooks.append(parameter.register_post_accumulate_grad_hook(add))

    def grad_norm(self, batch: Any, run_dir: Path, where: str) -> float:
        """The norm of the collected sum.

        Raises TrainingError naming the tensor where it is not finite, with the batch saved.
        """
        norm = float(self.collected.norm())
        if not math.isfinite(norm):
            raise _non_finite(
                f"the gradient of {self._worst()} is not finite", batch, run_dir, where
            )
        return norm

    def step(self, lr: float, batch: Any, run_dir: Path, where: str) -> float:
        """One update from the collected sum; returns its norm before clipping.

        Raises TrainingError as ``grad_norm`` does; no weight has changed then.
        """
        norm = self.grad_norm(batch, run_dir, where)
        if norm > self.max_grad_norm:
            self.collected.mul_(self.max_grad_norm / norm)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self.sync()
        self.collected.zero_()
        return norm

    def drop_gradients(self) -> None:
        """Empties the sum, and what a backward pass that did not end has left."""
        self.collected.zero_()
        if not self._is_fp32:
            for parameter in self.parameters:
                parameter.grad = None

    def _worst(self) -> str:
        parts = self.collected.split(self.sizes)
        pairs = zip(self.names, parts, strict=True)
        return next(
            (name for name, part in pairs if not part.isfinite().all()), "all tensors together"
        )

    def set_weights(self, master: Tensor) -> None:
        """Replaces all weights, masters and compute copies."""
        self.master.data.copy_(master)
        self.sync()

    def master_of(self, parameter: Tensor) -> Tensor:
        """The fp32 master of a parameter, as a view; ``sync`` after changing it.

        Raises ValueError for a parameter that is not trained here.
        """
        if not any(parameter is own for own in self.parameters):
            raise ValueError("the parameter is frozen: it has no master")
        start = parameter.data.storage_offset()
        return self.master.data[start : start + parameter.numel()].view(parameter.shape)

    def sync(self) -> None:
        """Copies the masters into the model."""
        if not self._is_fp32:
            self.weights.copy_(self.master.data)

    def release(self, master: Tensor | None = None) -> None:
        """Hands the model its masters (or ``master``) as fp32 weights: ready to be published."""
        for hook in self._hooks:
            hook.remove()
        source = self.master.data if master is None else master
        for parameter, part in zip(self.parameters, source.split(self.sizes), strict=True):
            parameter.data = part.view(parameter.shape)
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"master": self.master.data.to("cpu", copy=True), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set_weights(state["master"])
        self._adam.load_state_dict(state["adam"])


def peak_memory(device: torch.device) -> dict[str, float]:
    """``memory/peak_gib``, the most until now: of the process, or of the tensors on a device."""
    found = device_peak_gib(str(device))
    return {"memory/peak_gib": peak_gib() if found is None else found}


def require_finite(loss: Tensor, batch: Any, run_dir: Path, where: str) -> None:
    """Stops before the backward pass of a non-finite loss, with the batch saved."""
    if not bool(loss.isfinite()):
        raise _non_finite(f"the loss is {float(loss.detach())}", batch, run_dir, where)


def _non_finite(what: str, batch: Any, run_dir: Path, where: str) -> TrainingError:
    path = run_dir / NON_FINITE_FILE
    torch.save(batch, path)
    return TrainingError(
        f"{where}: {what}; nothing was updated. Usual causes: a learning rate that is too high, or "
        f"a broken row of data. Lower the learning rate, or look at the batch: torch.load('{path}')"
    )


def learning_rate(
    step: int,
    total: int,
    peak: float,
    *,
    schedule: str = "cosine",
    final_share: float = 0.1,
    warmup: int = 0,
    warmup_from: float = 0.0,
) -> float:
    """The learning rate of update ``step`` (0-based) of ``total``.

    Linear warm-up, then constant or a cosine down to ``final_share`` of the peak at the last update
    (paper C.1, C.2, C.4). The first update is at ``warmup_from`` of the peak (paper C.4: 0.1), or
    one step above it where that is 0.
    """
    if step < warmup:
        share = step / warmup if warmup_from > 0 else (step + 1) / warmup
        return peak * (warmup_from + (1 - warmup_from) * share)
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return peak * (
        final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    )


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A seed for one use of randomness: the same for the same arguments, else unrelated.

    Every random choice of a run comes from (seed, purpose, step), so a resumed run needs no saved
    generator state to go on exactly.
    """
    text = "/".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def make_generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A torch generator seeded by ``derive_seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *indices))


def epoch_batches(
    num_items: int, batch_size: int, num_steps: int, seed: int, first_step: int = 0
) -> Iterator[list[int]]:
    """Batches of indices for steps ``first_step`` to ``num_steps``: shuffled passes, without seams.

    Every item is used once before any is used again. Any step can be started from directly.
    """
    epoch, order = -1, []
    for step in range(first_step, num_steps):
        batch = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            if position // num_items != epoch:
                epoch = position // num_items
                generator = make_generator(seed, "order", epoch)
                order = torch.randperm(num_items, generator=generator).tolist()
            batch.append(order[position % num_items])
        yield batch


def microbatches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups of indices, similar lengths together, each of at most ``max_tokens`` tokens in all.

    A single sequence longer than that is a group of its own.
    """
    groups: list[list[int]] = []
    size = max_tokens
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if size + lengths[index] > max_tokens:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += lengths[index]
    return groups


class Sums:
    """Sums of numbers that models compute, by name; nobody waits for them until they are read.

    Reading one after every micro-batch would leave an accelerator idle while the next is made.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        """Adds scalars, in float64 as Python would."""
        for name, value in values.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def values(self) -> dict[str, float]:
        """The sums until now."""
        if not self._sums:
            return {}
        return dict(zip(self._sums, torch.stack([*self._sums.values()]).tolist(), strict=True))


class Timer:
    """Seconds of named phases within a step, of the device's own time where that is not the host's.

    An accelerator works on what it was given while the host goes on: marks are put into its queue,
    and read when someone asks.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self._is_queued = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._waiting: list[tuple[str, Any, Any]] = []  # phases whose marks have not been read
        self._last = self._mark()

    def _mark(self) -> Any:
        if not self._is_queued:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def restart(self) -> None:
        """Leaves out the time since the last lap."""
        self._last = self._mark()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to ``name``."""
        now = self._mark()
        if self._is_queued:
            self._waiting.append((name, self._last, now))
        else:
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase until the last lap; waits for it."""
        if self._waiting:
            self._waiting[-1][2].synchronize()
        for name, start, end in self._waiting:
            seconds = start.elapsed_time(end) / 1e3  # it tells milliseconds
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        self._waiting.clear()
        return self._seconds

    def total(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds.values())

    def metrics(self) -> dict[str, float]:
        """``time/<phase>_s`` of every phase."""
        return {f"time/{name}_s": seconds for name, seconds in self.seconds.items()}
