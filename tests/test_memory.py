"""How much memory the process took."""

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
