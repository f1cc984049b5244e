"""Which library multiplies fp32 matrices on this processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CPU_INFO = Path("/proc/cpuinfo")
# 1 + 2^-12 is an fp32 number that bf16 and tf32 would round to 1.
FINE = 1.0 + 2.0**-12
SHAPES = ((8, 64, 16), (64, 256, 256), (300, 512, 1024))  # rows, inner, columns


def tune_matmul() -> bool:
    """Lets oneDNN multiply fp32 matrices where MKL is slow; returns whether it was asked to.

    MKL takes more than twice as long as oneDNN on AMD's processors (measured on an EPYC). PyTorch
    calls oneDNN for fp32 only where it may round the factors to bf16. oneDNN does that on
    processors with matrix units for bf16 and nowhere else; so the products are looked at, and where
    one digit is lost all stays as it was.
    """
    if not _is_slow_for_mkl():
        return False
    matmul: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    if _keeps_digits():
        return True
    matmul.fp32_precision = before
    return False


def _is_slow_for_mkl() -> bool:
    has_both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    return has_both and CPU_INFO.is_file() and "AuthenticAMD" in CPU_INFO.read_text()


def _keeps_digits() -> bool:
    """Whether products have the digits of fp32: in all three orders that training needs."""
    for rows, inner, columns in SHAPES:
        a, b = torch.full((rows, inner), FINE), torch.full((inner, columns), FINE)
        c = torch.full((rows, columns), FINE)
        products = ((a, b, inner), (c, b.t(), columns), (a.t(), c, rows))
        for left, right, count in products:
            exact = count * FINE * FINE
            whole, batched = left @ right, torch.bmm(left[None], right[None])[0]
            for found in (whole, batched):
                if float((found - exact).abs().max()) > exact * 1e-6:
                    return False
    return True
