"""Graphs, streams and events of the pretend CUDA device, and which device that is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

active: list[Any] = []  # the pretend device, while there is one


def the_device() -> Any:
    if not active:
        raise RuntimeError("the pretend device is gone")
    return active[-1]


def address(x: Tensor) -> int:
    return x.untyped_storage()._cdata


class PretendGraph:
    """``torch.cuda.CUDAGraph``: operations that ``replay`` does again in the same memory."""

    def __init__(self, keep_graph: bool = False):
        self.reset()

    def reset(self) -> None:
        self._steps: list[tuple[Callable[..., Any], Any, Any, list[Tensor | None]]] = []
        self._made: dict[int, torch.UntypedStorage] = {}
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._is_ready = False

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        the_device().refuse_incapture("another capture")
        self.reset()
        the_device().graph = self

    def record(self, kernel: Any, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """Runs an operation, to learn what it makes; what it overwrites is put back at the end."""
        for x in written:
            storage = x.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self._before:
                self._before[storage._cdata] = (storage, storage.clone())
        out = kernel(*args, **kwargs)
        given = {address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        is_made = lambda x: isinstance(x, Tensor) and address(x) not in given  # noqa: E731
        made = [x if is_made(x) else None for x in tree_leaves(out)]
        self._made |= {address(x): x.untyped_storage() for x in made if x is not None}
        if written or any(x is not None for x in made):  # all others are views
            self._steps.append((kernel, args, kwargs, made))
        return out

    def capture_end(self) -> None:
        the_device().graph = None
        for storage in self._made.values():
            storage.fill_(255)  # NaN, -1: before the first replay there is nothing in it
        for storage, before in self._before.values():
            storage.copy_(before)
        self._is_ready = True

    def replay(self) -> None:
        the_device().refuse_incapture("replay")
        if not self._is_ready:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        with torch.inference_mode():
            for kernel, args, kwargs, made in self._steps:
                for old, new in zip(made, tree_leaves(kernel(*args, **kwargs)), strict=True):
                    if old is not None:
                        old.copy_(new)


@contextlib.contextmanager
def capture(graph: PretendGraph, pool: Any = None, stream: Any = None, **_: Any) -> Iterator[None]:
    """``torch.cuda.graph``."""
    the_device().wait("torch.cuda.graph")
    graph.capture_begin(pool)
    try:
        yield
    except BaseException:
        graph.capture_end()
        graph.reset()
        raise
    graph.capture_end()


class Stream:
    """``torch.cuda.Stream``: one is enough, as everything runs at once and in order."""

    def __init__(self, *_, **__): ...

    def wait_stream(self, other): ...

    wait_event = wait_stream

    def synchronize(self):
        the_device().wait("Stream.synchronize")


class Event:
    """``torch.cuda.Event``, by the processor's clock."""

    def __init__(self, enable_timing=False, **_):
        self.is_timed, self.at = enable_timing, None

    def record(self, stream=None):
        self.at = time.perf_counter()

    def synchronize(self):
        the_device().wait("Event.synchronize")

    def elapsed_time(self, end):
        if not (self.is_timed and end.is_timed) or self.at is None or end.at is None:
            raise ValueError("Both events must be created with enable_timing=True and recorded.")
        return (end.at - self.at) * 1000
