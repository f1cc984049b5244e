"""A window of updates under torch.profiler, phases in its trace, and the matmul peak of a machine.

Nothing of it stands in the steps: labels are put on their functions from outside while a profile is
taken, and a callback that the steps call after every update opens and closes the window. A run that
is not profiled is labelled and recorded nowhere.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from heedful.memory import device_peak_gib, peak_gib
from heedful.models.device import synchronize
from heedful.training.trace import PHASE_PREFIX

# A step calls it after every update, or batch of prompts: (done, total).
Progress = Callable[[int, int], None]
# Seconds of repeats that a matmul rate is the best of.
RATE_S = 0.1
# Seconds of products that a CUDA device is given at a time: waiting for it is little beside them.
GROUP_S = 0.005


class Window(NamedTuple):
    """How many updates are passed by first, and how many are then profiled."""

    warm_up: int
    num_updates: int


class Recorded(NamedTuple):
    """A window that has ended."""

    seconds: float
    last: int  # updates done at its end
    num_updates: int
    num_before: int  # updates before it and its rehearsal, warm and without the profiler
    num_tokens: int  # of what ``labelled`` counts
    peak_gib: float  # memory of the process at its most, until then
    device: str = "cpu"  # that the run computes on
    device_peak_gib: float | None = None  # its memory at its most, until then; None on "cpu"


class Label(NamedTuple):
    """Calls of ``owner.name`` are a phase; labels below one that is not open do nothing."""

    owner: Any
    name: str
    phase: str
    is_open: bool = False
    count: Callable[[Any], int] | None = None  # tokens of what a call returns


class Tokens:
    """A count that labelled functions add to."""

    num = 0


@contextmanager
def labelled(labels: Sequence[Label]) -> Iterator[Tokens]:
    """Marks phases in the trace of whatever profiler is on; everything is as before at the end.

    Raises KeyError for a function that is not there (any more): labels follow the steps' names.
    """
    tokens = Tokens()
    opens = [True]  # whether labels count, the innermost call last
    before = [(label, vars(label.owner)[label.name]) for label in labels]
    try:
        for label, function in before:
            setattr(label.owner, label.name, _with_label(function, label, opens, tokens))
        yield tokens
    finally:
        for label, function in before:
            setattr(label.owner, label.name, function)


def _with_label(
    function: Callable[..., Any], label: Label, opens: list[bool], tokens: Tokens
) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not opens[-1]:
            return function(*arguments, **options)
        opens.append(label.is_open)
        try:
            with record_function(PHASE_PREFIX + label.phase):
                result = function(*arguments, **options)
        finally:
            opens.pop()
        if label.count is not None:
            tokens.num += label.count(result)
        return result

    return call


class Recorder:
    """Profiles a window of updates into a Chrome trace; ``advance`` follows every update.

    The window opens after ``warm_up`` updates, earlier where a run has fewer: then its last update
    is the window, and of a run of one update all from ``start`` on. At both of its ends it waits
    for the device: what was given to it before the window is not counted, what was in it is.

    The update before the window is recorded too and thrown away. What a profiler keeps, many small
    pieces, would else be cut from the large blocks that the updates use again, which then take
    fresh memory: PPO of 58 million weights was half as slow in its window, in the copies alone.
    """

    def __init__(
        self, trace: Path, window: Window, tokens: Tokens | None = None, device: str = "cpu"
    ):
        self.trace, self.window = trace, window
        self.device = torch.device(device)
        self.tokens = tokens or Tokens()
        self.is_done = False
        self._profiler: profile | None = None
        self._num_calls = 0
        self._began = 0  # calls before the recording
        self._since = 0.0
        self._tokens_before = 0

    def start(self) -> None:
        """Begins to record."""
        self._began = self._num_calls
        synchronize(self.device)
        profiler = profile(activities=_activities(self.device), record_shapes=True)
        profiler.start()
        self._profiler = profiler
        self._tokens_before = self.tokens.num
        self._since = time.perf_counter()

    def advance(self, done: int, total: int) -> Recorded | None:
        """The window, at its end; None before and after."""
        if self.is_done:
            return None
        self._num_calls += 1
        left = total - done
        is_window = self._began >= self.window.warm_up
        if self._profiler is not None:
            num_updates = self._num_calls - self._began
            if left <= 0 or (is_window and num_updates == self.window.num_updates):
                return self._close(done, num_updates)
            if is_window:
                return None
            self.abandon()
        until = self.window.warm_up - self._num_calls
        if until <= 1 or left <= until:
            self.start()
        return None

    def abandon(self) -> None:
        """Ends a recording that is not needed, if there is one."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _close(self, done: int, num_updates: int) -> Recorded:
        assert self._profiler is not None  # advance asks only where it records
        synchronize(self.device)
        seconds = time.perf_counter() - self._since
        num_tokens = self.tokens.num - self._tokens_before
        device = str(self.device)
        peaks = peak_gib(), device, device_peak_gib(device)
        self._profiler.stop()
        self._profiler.export_chrome_trace(str(self.trace))
        self._profiler = None
        self.is_done = True
        is_window = self._began >= self.window.warm_up
        # the first ran cold, the last was the rehearsal
        num_before = max(0, self._began - 2) if is_window else 0
        return Recorded(seconds, done, num_updates, num_before, num_tokens, *peaks)


def _activities(device: torch.device) -> list[ProfilerActivity]:
    cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *cuda]


# Who wants to know of a run's progress: given the callback, the run directory, dtype and device.
Watcher = Callable[[Progress, Path, str, str], Progress]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Until the end, commands hand their progress callbacks to ``watcher`` when they begin."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watched(progress: Progress, run_dir: Path, dtype: str, device: str = "cpu") -> Progress:
    """The progress callback of a run: as it is, or as the watcher makes it."""
    watcher = _watcher.get()
    return progress if watcher is None else watcher(progress, run_dir, dtype, device)


def matmul_rate(
    shape: Sequence[int], dtype: torch.dtype, seconds: float = RATE_S, device: str = "cpu"
) -> float:
    """FLOP per second of a bare matrix product (rows, inner, columns), or (batch, ...) of several.

    The best of as many repeats as fit into ``seconds``, at least three; on a CUDA device a repeat
    is many products, given to it without waiting for each. Draws from its own random numbers: a run
    that measures in between goes on as it would have.
    """
    *batch, rows, inner, columns = shape
    place = torch.device(device)
    generator = torch.Generator(place).manual_seed(0)
    a = torch.randn(*batch, rows, inner, generator=generator, device=place).to(dtype)
    b = torch.randn(*batch, inner, columns, generator=generator, device=place).to(dtype)
    out = torch.empty(*batch, rows, columns, dtype=dtype, device=place)

    def seconds_of(num: int) -> float:
        synchronize(place)
        start = time.perf_counter()
        for _ in range(num):
            torch.matmul(a, b, out=out)
        synchronize(place)
        return time.perf_counter() - start

    num = 1
    if place.type == "cuda":
        seconds_of(1)  # the first one loads the library
        num = max(1, round(GROUP_S / max(seconds_of(1), 1e-6)))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        times.append(seconds_of(num))
    return 2 * a.numel() * columns * num / min(times)
