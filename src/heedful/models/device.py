"""Where a model computes and in what: processor or accelerator, fp32 or bf16."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch
from torch import Tensor

from heedful.errors import ConfigError
from heedful.memory import TOKENS, TOKENS_ON_ACCELERATORS

CPU = torch.device("cpu")


class Settings(Protocol):
    """What the settings of a command say of where it computes."""

    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def tokens_per_microbatch(self) -> int: ...


def pick_device(name: str) -> torch.device:
    """The device of a setting: "cpu", "cuda", "cuda:1"; "auto" is CUDA wherever torch has it.

    Raises ConfigError where it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ConfigError(
                f'compute.device is "{name}", but torch {torch.__version__} finds no CUDA device '
                'here: set compute.device to "cpu" (or "auto"), or install a torch built for CUDA'
            )
        if (device.index or 0) >= count:
            raise ConfigError(
                f'compute.device is "{name}", but this machine has {count} CUDA '
                f"device{'s' if count > 1 else ''}: the last one is cuda:{count - 1}"
            )
    return device


def pick_dtype(name: str, device: torch.device = CPU) -> torch.dtype:
    """The compute dtype of a setting: float32, bfloat16, or the faster of both there for "auto".

    "auto" takes bfloat16 on a CUDA device that has it, and on a processor that multiplies it at
    least 1.5 times as fast as fp32 (two matmuls of a few milliseconds decide).
    """
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
        is_fast = seconds[torch.bfloat16] * 1.5 < seconds[torch.float32]
    return torch.bfloat16 if is_fast else torch.float32


def _matmul_seconds(dtype: torch.dtype) -> float:
    a, b = torch.randn(1024, 512, dtype=dtype), torch.randn(512, 512, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return min(times)


def placement(compute: Settings) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device of a command's settings, in the order in which models are loaded.

    Streams, events and graphs are made on the device from now on.
    """
    device = pick_device(compute.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return pick_dtype(compute.dtype, device), device


def tokens_at_a_time(compute: Settings) -> int:
    """The tokens of a micro-batch of a command's settings."""
    if compute.tokens_per_microbatch:
        return compute.tokens_per_microbatch
    return TOKENS if pick_device(compute.device).type == "cpu" else TOKENS_ON_ACCELERATORS


def described(device: torch.device) -> str:
    """A device in words: "cpu, 2 threads", "cuda:0, NVIDIA H200"."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    count = torch.get_num_threads()
    return f"{device}, {count} thread{'s' if count > 1 else ''}"


def device_of(model: Any) -> torch.device:
    """The device that a model's weights are on."""
    return next(model.parameters()).device


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on ``device``; nobody waits for what the device is doing.

    A plain copy would wait: what is uploaded stands still in memory until it has been read.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def free_bytes_of(device: torch.device) -> int:
    """Memory that a CUDA device can still give: what is free, and what torch keeps for reuse."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def synchronize(device: torch.device) -> None:
    """Waits until a device has done all that it was given; a processor always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
