"""fp32 products keep their digits, whichever library makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heedful.models import matmul


@pytest.fixture(autouse=True)
def as_before():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    yield
    setting.fp32_precision = before


def test_products_have_the_digits_of_fp32_after_tuning():
    matmul.tune_matmul()
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((96, 384)), generator.standard_normal((384, 128))
    found = torch.tensor(a, dtype=torch.float32) @ torch.tensor(b, dtype=torch.float32)
    # bf16 factors would be wrong by about 0.1 here
    assert np.abs(found.numpy() - a @ b).max() < 1e-4


def test_nothing_changes_where_digits_would_be_lost(monkeypatch):
    """As on a processor whose bf16 units oneDNN would use: the products come back rounded."""
    monkeypatch.setattr(matmul, "_is_slow_for_mkl", lambda: True)
    multiply = torch.Tensor.__matmul__

    def rounded(left, right):
        if torch.backends.mkldnn.matmul.fp32_precision != "bf16":
            return multiply(left, right)
        return multiply(left.bfloat16(), right.bfloat16()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert matmul.tune_matmul() is False
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_processor_that_mkl_is_made_for_is_left_alone(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\n")
    monkeypatch.setattr(matmul, "CPU_INFO", tmp_path / "cpuinfo")
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert matmul.tune_matmul() is False
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_products_that_keep_their_digits_are_left_to_onednn(monkeypatch):
    monkeypatch.setattr(matmul, "_is_slow_for_mkl", lambda: True)
    multiply, batched = torch.Tensor.__matmul__, torch.bmm
    wide = torch.float64  # a library that is exact, whatever this processor has
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: multiply(a.to(wide), b.to(wide)).float()
    )
    monkeypatch.setattr(torch, "bmm", lambda a, b: batched(a.to(wide), b.to(wide)).float())
    assert matmul.tune_matmul() is True
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
