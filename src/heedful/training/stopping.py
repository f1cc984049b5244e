"""When a step saves its training state, and how Ctrl-C and SIGTERM end it without losing work.

The first signal asks the step at work to save its state after the update at hand and to end there;
the second ends it at once. Where no step is at work (models are loading, say) the first one does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# By the clock, saving takes no more than a twentieth of a run.
MIN_WAIT = 20


class Stopped(KeyboardInterrupt):
    """A signal has ended the run. The message, if any, says what was saved; ``number`` is its."""

    def __init__(self, message: str = "", number: int = signal.SIGINT):
        super().__init__(message)
        self.number = number


class _Request:
    """What the handler of the signals and the step at work say to each other."""

    is_importing = False
    is_step_at_work = False
    is_last_update_done = False
    number: int | None = None  # the signal that asked the step to end

    def reset(self) -> None:
        self.is_importing = self.is_step_at_work = self.is_last_update_done = False
        self.number = None


_request = _Request()


@contextmanager
def stoppable() -> Iterator[None]:
    """Until the end, SIGINT and SIGTERM end the run as this module says.

    A signal that the process ignores (nohup, a job in the background) stays ignored. Threads other
    than the first cannot have handlers: there nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _request.reset()
    try:
        for number in SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, _ask)
        yield
    finally:
        _request.reset()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def importing() -> Iterator[None]:
    """Until the end, a signal ends the process itself: nothing has begun that could be cut short.

    An exception in the middle of an import of torch ends in a crash of its C++ parts.
    """
    _request.is_importing = True
    try:
        yield
    finally:
        _request.is_importing = False


def _ask(number: int, _frame: FrameType | None) -> None:
    if _request.is_importing:
        os.write(2, b"stopped before anything had begun\n")
        os._exit(128 + number)
    if not _request.is_step_at_work or _request.number is not None:
        raise Stopped("", number)
    _request.number = number
    if _request.is_last_update_done:
        text = "all updates are done and the result is being written; once more stops at once"
    else:
        text = "stopping after this step, to save its state; once more stops at once"
    os.write(2, f"\n{text}\n".encode())  # print may be in the middle of a line of its own


class Saves:
    """Says after which updates a step saves its state; ends the run where that was asked for.

    Due every ``every`` updates, when ``every_s`` seconds have gone by since the last one (more
    where a save takes long), and when a signal asked for the end; 0 turns either rule off. The
    seconds keep a run of few long updates from losing hours, the updates one of many short ones
    from depending on the clock alone. ``first`` updates were done by the run that is resumed.
    """

    def __init__(self, every: int, every_s: float, total: int, first: int = 0):
        self.every, self.every_s, self.total = every, every_s, total
        self._last_s = self._due_s = time.monotonic()
        self._cost_s = 0.0  # seconds that the last save took
        _request.is_step_at_work = True
        _request.is_last_update_done = first >= total

    def is_due(self, done: int) -> bool:
        """Whether the state is to be saved after ``done`` updates; ``saved`` must follow then."""
        by_count = self.every > 0 and done % self.every == 0
        if done >= self.total:  # the result follows at once
            _request.is_last_update_done = True
            return by_count
        self._due_s = time.monotonic()
        wait_s = max(self.every_s, MIN_WAIT * self._cost_s)
        late = self.every_s > 0 and self._due_s - self._last_s >= wait_s
        return by_count or late or _request.number is not None

    def saved(self, done: int) -> None:
        """Raises Stopped where a signal asked for the end."""
        self._last_s = time.monotonic()
        self._cost_s = self._last_s - self._due_s
        if _request.number is not None and done < self.total:
            raise Stopped(
                f"stopped after step {done} of {self.total}; its state is saved: run again with "
                "--resume to go on",
                _request.number,
            )
