"""How much memory the process took, and tensors on a device."""

from __future__ import annotations

import types

import pytest

from heedful import memory


@pytest.mark.parametrize(("platform", "counted"), [("linux", 3 * 2**20), ("darwin", 3 * 2**30)])
def test_linux_counts_kib_and_macos_bytes(monkeypatch, platform: str, counted: int):
    usage = types.SimpleNamespace(ru_maxrss=counted)
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(memory.sys, "platform", platform)
    assert memory.peak_gib() == 3.0


def test_the_peak_of_a_device_is_what_tensors_took(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {"cuda:1": 5 * 2**30}.get)
    assert memory.device_peak_gib("cuda:1") == 5.0
    assert memory.device_peak_gib("cpu") is None


@pytest.mark.parametrize(
    ("own", "malloc", "kept"),
    [
        (None, None, "128"),
        ("7", None, "7"),
        (None, "default", None),
    ],
)
def test_few_kernels_are_kept_unless_somebody_says_otherwise(monkeypatch, own, malloc, kept):
    asked = []
    libc = types.SimpleNamespace(mallopt=lambda name, value: asked.append(name) or 1)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    for name, value in (("ONEDNN_PRIMITIVE_CACHE_CAPACITY", own), ("HEEDFUL_MALLOC", malloc)):
        monkeypatch.setenv(name, value or "")  # so that it is as it was afterwards
        if value is None:
            monkeypatch.delenv(name)
    assert memory.tune_allocator() == (malloc is None) == bool(asked)
    assert memory.os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == kept


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "CUDA out of memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 4000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "can't allocate memory: you tried to allocate 4000 bytes. Error code 12 (Cannot "
            "allocate memory)",
        ),
    ],
)
def test_why_memory_ran_out_is_said(error, reason):
    assert memory.out_of_memory(error)
    assert memory.memory_reason(error) == reason
    assert reason in memory.memory_advice(error)
