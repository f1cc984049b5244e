"""What a command says of its progress where its steps print no lines, and its last line."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heedful.metrics import duration

# Into a file or a pipe: a line every so many seconds, or for every share done if that is sooner.
LINE_S = 30.0
LINE_SHARE = 0.1
POLL_S = 1.0

Progress = Callable[[int, int], None]
# What a command has written when it has ended, and how to call it; "" is the run directory itself.
WRITES = {
    "tokenizer": ("the tokenizer", ""),
    "pretrain": ("the base model", "model"),
    "sft": ("the policy", "model"),
    "reward": ("the reward model", "model"),
    "ppo": ("the policy", "model"),
    "sample": ("the completions", "completions.jsonl"),
    "prefix": ("the prefix that scores best", "prefix.json"),
    "simulate": ("the world", ""),
    "simulate-labels": ("the rankings", "comparisons.jsonl"),
    "simulate-demonstrations": ("the demonstrations", "demonstrations.jsonl"),
    "snapshot": ("the snapshot", ""),
    "eval": ("the results", "eval"),
    "judge": ("what was judged", ""),
    "preference": ("the win rates", "eval/preference.json"),
    "tax": ("the changes", "tax.json"),
    "compare": ("the page", "comparison.html"),
    "evaluate": ("the claims", "claims.json"),
    "measure": ("the measures", "measures.json"),
    "summarize": ("the summary", "summary.json"),
}


def last_line(command: str, config: Any, seconds: float) -> str:
    """What a command wrote, where, and in what time."""
    if command == "report":
        what, where = "the page", Path(config.run) / config.out
    else:
        what, name = WRITES[command]
        where = Path(config.run_dir) / name
    return f"wrote {what} to {where} in {duration(seconds)}"


@contextmanager
def progress_lines(name: str) -> Iterator[None]:
    """Until the end, the progress of a command is said on stderr.

    In a terminal one line is written again and again, elsewhere lines follow each other. A thread
    does it: between two calls of a progress callback an hour may pass.
    """
    from heedful.training.profiling import watching

    lines = _Lines(name)
    ended = threading.Event()
    thread = threading.Thread(target=lines.speak, args=(ended,), daemon=True)
    with watching(lines.follow):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            lines.close()


class _Lines:
    """The newest progress of a command, and when it was last said."""

    def __init__(self, name: str):
        self.name = name
        self.done, self.total = 0, 0
        self.start_s = self.said_s = time.monotonic()
        self.said_done = 0
        self.is_terminal = sys.stderr.isatty()

    def follow(self, progress: Progress, _run_dir: Path, _dtype: str, _device: str) -> Progress:
        """The callback that is handed on; it notes what it is told."""

        def report(done: int, total: int) -> None:
            self.done, self.total = done, total
            progress(done, total)

        return report

    def speak(self, ended: threading.Event) -> None:
        while not ended.wait(POLL_S):
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Says how far it is, if it is time to."""
        if self.is_terminal:
            print(f"\r\x1b[K{self.text(now)}", end="", file=sys.stderr, flush=True)
            return
        more = self.done - self.said_done >= max(1.0, LINE_SHARE * self.total)
        if more or now - self.said_s >= LINE_S:
            self.said_s, self.said_done = now, self.done
            print(self.text(now), file=sys.stderr, flush=True)

    def text(self, now: float) -> str:
        elapsed = now - self.start_s
        if not self.total:
            return f"{self.name}: {duration(elapsed)}, loading"
        said = f"{self.name}: {self.done:,} of {self.total:,}, {duration(elapsed)}"
        if 0 < self.done < self.total:
            said += f", about {duration(elapsed / self.done * (self.total - self.done))} left"
        return said

    def close(self) -> None:
        if self.is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
