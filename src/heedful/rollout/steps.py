"""Steps of decoding one after another: one at a time on a processor, from a graph on CUDA.

A step of a small model is hundreds of kernels that take less time than it takes to start them. A
graph starts them all at once. It is of one number of rows and slots, and works in place on rows of
its own, to which those that are decoded are copied.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from heedful.memory import out_of_memory
from heedful.rollout.decoding import Decoder, Rows
from heedful.rollout.picking import Draws

# Rows that have ended stay until they are this share of the batch: moving rows costs a copy of the
# cache, and few prompts are read no faster than many.
COMPACT_SHARE = 0.2
# Where no prompt waits: fewer rows need another graph on an accelerator, for little (not measured).
SHRINK_SHARE_ON_ACCELERATORS = 0.75
# Steps between two looks at how many rows are left: an accelerator idles while the host looks.
STEPS_ON_ACCELERATORS = 8

# Models whose step could not be captured: nobody tries again.
_not_captured: WeakSet[Any] = WeakSet()


class Steps:
    """Runs a decoder's steps. ``num_steps`` of them are done at a time, without looking."""

    def __init__(self, decoder: Decoder, num_rows: int, draws: Draws | None):
        self.decoder, self.draws, self.max_rows = decoder, draws, num_rows
        self.is_queued = decoder.cache.device.type == "cuda"
        self.num_steps = STEPS_ON_ACCELERATORS if self.is_queued else 1
        self._graphs: dict[int, _Graph] = {}  # by rows, all of the slots that there are now
        self._num_slots = 0
        self._can_graph = self.is_queued and decoder.model not in _not_captured
        self._pool: Any = None

    def compact_share(self, is_waiting: bool) -> float:
        """The share of rows that have ended at which the others move together."""
        return SHRINK_SHARE_ON_ACCELERATORS if self.is_queued and not is_waiting else COMPACT_SHARE

    def num_decoded(self, num_rows: int) -> int:
        """The rows that are decoded where there are ``num_rows``.

        Graphs are of all rows of the batch, a quarter of them, a sixteenth and so on: the
        smallest that holds them.
        """
        if not self.is_queued:
            return num_rows
        size = self.max_rows
        while size // 4 >= num_rows:
            size //= 4
        return size

    def run(self, rows: Rows) -> None:
        """Decodes ``num_steps`` tokens of rows, in place."""
        if not self._can_graph:
            for _ in range(self.num_steps):
                self.decoder.step(rows, self.draws and self.draws.next(len(rows.tokens)))
            return
        if self._num_slots != self.decoder.cache.num_slots:  # those it had are gone
            self._graphs.clear()
            self._pool = torch.cuda.graph_pool_handle()  # one that was left behind may live on
            self._num_slots = self.decoder.cache.num_slots
        size = self.num_decoded(len(rows.tokens))
        if size not in self._graphs:
            self._graphs[size] = _Graph(self.decoder, size)
        graph = self._graphs[size]
        graph.load(rows)
        for _ in range(self.num_steps):
            uniform = self.draws and self.draws.next(size)
            if self._can_graph:
                self._can_graph = graph.step(uniform, self._pool)
            if not self._can_graph:
                self.decoder.step(graph.rows, uniform)
        graph.lend(rows)


class _Graph:
    """One step of a decoder with a number of rows: run once as it is, then captured."""

    def __init__(self, decoder: Decoder, num_rows: int):
        self.decoder = decoder
        self.rows = Rows.none(decoder.cache.device, num_rows)
        self._uniform = torch.zeros(num_rows, 1, device=decoder.cache.device)
        self._is_warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._lent: Rows | None = None

    def load(self, rows: Rows) -> None:
        """Takes the rows over, unless they are those that it lent."""
        if rows is not self._lent:
            self.rows.set(rows)

    def lend(self, rows: Rows) -> None:
        """Has the rows be views of its own, which the next step goes on from."""
        vars(rows).update(vars(self.rows.first(len(rows.tokens))))
        self._lent = rows

    def step(self, uniform: Tensor | None, pool: Any) -> bool:
        """One step; False, and nothing is done, where it cannot be captured.

        The first one runs as it is: libraries take their workspace then, which no capture allows.
        """
        if uniform is not None:
            self._uniform.copy_(uniform)
        drawn = None if uniform is None else self._uniform
        if not self._is_warm:
            self.decoder.step(self.rows, drawn)
            self._is_warm = True
            return True
        if self._graph is None:
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, pool=pool):
                    self.decoder.step(self.rows, drawn)
            except RuntimeError as error:
                torch.cuda.set_stream(stream)  # a capture that fails stays on its own
                if out_of_memory(error):
                    raise
                _not_captured.add(self.decoder.model)
                print(
                    f"{type(self.decoder.model).__name__} cannot be decoded from a graph ({error}):"
                    " every step is started kernel by kernel, which is slower",
                    file=sys.stderr,
                    flush=True,
                )
                return False
            self._graph = graph
        self._graph.replay()
        return True
