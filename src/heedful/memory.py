"""The process's memory: how much it took, and an allocator that uses freed blocks again.

By default glibc maps large tensors afresh at every use and gives them back when they are freed; the
page faults cost more than the arithmetic on small machines. Set HEEDFUL_MALLOC=default to leave the
allocator alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP_BYTES = 2**31 - 1
GROW_BYTES = 64 * 2**20
# Products of other shapes are other kernels to oneDNN, some 0.4 MiB each, and batches differ in
# length; what is used again is used at once, in the next layer. By itself it keeps 1,024 of them.
KERNELS = "128"
# Tokens that a model reads at a time where no setting says so: small products idle an accelerator.
TOKENS, TOKENS_ON_ACCELERATORS = 8192, 32768
# How libraries below torch say that memory ran out.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def tune_allocator() -> bool:
    """Asks glibc to keep freed memory and never to map single blocks; True where it took it.

    And oneDNN, which reads it at its first product, to keep few kernels.
    """
    if os.environ.get("HEEDFUL_MALLOC") == "default":
        return False
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: KEEP_BYTES, M_TOP_PAD: GROW_BYTES}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]  # asks for every one
    return all(taken)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the processor or on an accelerator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def memory_reason(error: BaseException) -> str:
    """What an error that memory ran out says of it, in one sentence."""
    lines = str(error).splitlines() or [type(error).__name__]
    sentence = lines[0].partition("DefaultCPUAllocator: ")[2] or lines[0].partition(". ")[0]
    return sentence.rstrip(". ")


def memory_advice(error: BaseException) -> str:
    """What to do about it, for a command that had no way to take less by itself."""
    return (
        f"memory ran out ({memory_reason(error)}): take a smaller model, or less at a time where "
        "the command has it (compute.tokens_per_microbatch, sampling.max_rows), or train adapters "
        "(lora.rank); what was saved goes on with --resume"
    )


def peak_gib() -> float:
    """Memory of this process at its most until now, in GiB."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def device_peak_gib(device: str) -> float | None:
    """Memory that tensors took on a CUDA device at their most until now, in GiB; None on others."""
    if not device.startswith("cuda"):
        return None
    import torch  # who asks for the processor alone needs none

    return torch.cuda.max_memory_allocated(device) / 2**30
