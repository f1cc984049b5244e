"""heed doctor: it says what the machine is, and measures what it claims."""

from __future__ import annotations

import os
import platform
import time

import pytest

from heedful.cli import main
from heedful.commands.doctor import auto_dtype, matmul_rates


def test_the_doctor_says_what_there_is(capsys):
    import torch

    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for text in (platform.python_version(), torch.__version__, f"of {os.cpu_count()}", "GFLOP/s"):
        assert text in out
    assert "new block of 16 MiB" in out


def test_the_rate_is_operations_over_seconds():
    import torch

    rates = matmul_rates()
    a, b = torch.randn(1024, 512), torch.randn(512, 512)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    # the same product, timed here: other processes make it differ, not by an order of magnitude
    assert 0.1 < rates["float32"] / (2 * 1024 * 512 * 512 / min(seconds)) < 10


@pytest.mark.parametrize("gain", [0.5, 1.4, 1.6, 4.0])
def test_auto_is_what_the_models_take(gain: float, monkeypatch):
    import torch

    from heedful.models import language_model

    seconds = {torch.float32: 1.0, torch.bfloat16: 1 / gain}
    monkeypatch.setattr(language_model, "_matmul_seconds", seconds.get)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    taken = str(language_model.pick_dtype("auto")).removeprefix("torch.")
    assert auto_dtype({"float32": 1.0, "bfloat16": gain}) == taken
