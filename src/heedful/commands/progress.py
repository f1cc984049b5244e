"""Progress of a stage: written to a small file by the stage, drawn as bars by whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from heedful.metrics import replacing

PROGRESS_FILE = "progress.json"
WRITE_EVERY_S = 0.5


def file_progress(run_dir: Path) -> Callable[[int, int], None]:
    """A progress callback that keeps ``run_dir/progress.json`` current, at most twice a second."""
    run_dir.mkdir(parents=True, exist_ok=True)
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < WRITE_EVERY_S:
            return
        last = now
        # a picture of the moment: not worth waiting for the disk
        with replacing(run_dir / PROGRESS_FILE, durable=False) as partial:
            partial.write_text(json.dumps({"done": done, "total": total}), encoding="utf-8")

    return report


def read_progress(run_dir: Path) -> tuple[int, int] | None:
    """(done, total) of a stage, or None where it has not said yet."""
    try:
        values = json.loads((run_dir / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return values["done"], values["total"]


def bars(console: Console) -> Progress:
    """The progress display: name, bar, count, elapsed, left."""
    return Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,
    )
