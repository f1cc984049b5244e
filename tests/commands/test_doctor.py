"""heed doctor: it says what the machine is, and measures what it claims."""

from __future__ import annotations

import os
import platform
import time

import pytest

from heedful.cli import main
from heedful.commands.doctor import (
    CUDA_MATMUL_SHAPE,
    _compute_rows,
    auto_dtype,
    matmul_rates,
)


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

    from heedful.models import device

    seconds = {torch.float32: 1.0, torch.bfloat16: 1 / gain}
    monkeypatch.setattr(device, "_matmul_seconds", seconds.get)
    taken = str(device.pick_dtype("auto")).removeprefix("torch.")
    assert auto_dtype({"float32": 1.0, "bfloat16": gain}) == taken


def rows_of(rates: dict[str, float]) -> dict[str, list[str]]:
    """What the doctor says of where is computed, by the name of the row."""
    rows: dict[str, list[str]] = {}
    for name, value in _compute_rows(rates):
        rows.setdefault(name, []).append(value)
    return rows


RATES = {"float32": 2e9, "bfloat16": 7e9}


@pytest.fixture
def cuda(monkeypatch):
    """Two CUDA devices, the first a Hopper or the one that is asked for."""
    import torch

    def devices(capability=(9, 0), has_memory=True):
        def memory(index):
            if not has_memory:
                raise RuntimeError("out of memory\nsecond line")
            return (index + 1) * 2**30, 80 * 2**30

        found = {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "get_device_name": ["Large", "Small"].__getitem__,
            "get_device_capability": [capability, (7, 5)].__getitem__,
            "is_bf16_supported": lambda including_emulation: capability >= (8, 0),
            "mem_get_info": memory,
        }
        for name, function in found.items():
            monkeypatch.setattr(torch.cuda, name, function)

    return devices


def test_a_device_that_computes(cuda, monkeypatch):
    import torch

    cuda()
    asked = []

    def rate(shape, dtype, device):
        asked.append((shape, device))
        return {torch.float32: 51.24e12, torch.bfloat16: 1234.56e12}[dtype]

    monkeypatch.setattr("heedful.training.profiling.matmul_rate", rate)
    rows = rows_of(RATES)
    assert rows["accelerator"] == [
        "cuda:0: Large, 80.0 GiB, 1.0 GiB free, compute capability 9.0, bfloat16",
        "cuda:1: Small, 80.0 GiB, 2.0 GiB free, compute capability 7.5, no bfloat16",
    ]
    assert rows["matmul cuda float32"] == ["51.2 TFLOP/s"]
    assert rows["matmul cuda bfloat16"] == ["1,234.6 TFLOP/s"]
    assert asked == [(CUDA_MATMUL_SHAPE, "cuda")] * 2
    assert rows["matmul float32"][0].startswith("2 GFLOP/s")
    assert rows['device "auto"'] == ["cuda: torch finds a CUDA device"]
    assert rows['dtype "auto"'] == ["bfloat16: the CUDA device has it"]


def test_a_device_that_can_do_less(cuda, monkeypatch):
    cuda((7, 5), has_memory=False)

    def broken(*_, **__):
        raise RuntimeError("no kernel image\nCompile with another option")

    monkeypatch.setattr("heedful.training.profiling.matmul_rate", broken)
    rows = rows_of(RATES)
    assert "memory not known (out of memory), compute" in rows["accelerator"][0]
    assert rows["matmul cuda"] == ["could not be measured: no kernel image"]
    assert rows['dtype "auto"'][0].startswith("float32: ")
    assert "8.0 needed" in rows['dtype "auto"'][0]


@pytest.mark.parametrize(
    ("has_tool", "built_for", "said"),
    [
        (False, None, "none"),
        (True, None, "built without CUDA: install a torch that is built for CUDA"),
        (True, "13.0", "built for CUDA 13.0, finds no device"),
    ],
)
def test_a_device_that_torch_does_not_see(has_tool, built_for, said, monkeypatch):
    import torch

    tool = "/usr/bin/nvidia-smi" if has_tool else None
    monkeypatch.setattr("shutil.which", lambda name: tool)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = rows_of(RATES)
    assert said in rows["accelerator"][0]
    assert (rows["accelerator"] == ["none"]) == (not has_tool)
    assert rows['device "auto"'] == ["cpu: torch finds no CUDA device"]
    assert rows['dtype "auto"'] == ["bfloat16: bf16 is 3.5 times as fast as fp32, needed 1.5"]
