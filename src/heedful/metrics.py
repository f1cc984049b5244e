"""One row of numbers per step: metrics.jsonl, a log line, and optional TensorBoard / W&B sinks.
Beside it how a run's files are written: whole or not at all.

Keys are flat and grouped with a slash (``ppo/clipfrac``); every key is explained in
``docs/metrics.md``, which a test compares with the keys that the steps write.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from heedful.errors import DataError, MissingExtraError

METRICS_FILE = "metrics.jsonl"
# What of a row the log line shows, and how it is called there, the most important first: as many as
# fit. Of a row with none of them everything is shown.
LINE_LABELS = {
    "pretrain/loss": "loss",
    "sft/loss": "loss",
    "sft/text_loss": "text_loss",
    "reward/loss": "loss",
    "reward/accuracy": "accuracy",
    "valid/loss": "valid_loss",
    "valid/accuracy": "valid_accuracy",
    "ppo/score": "score",
    "valid/score": "valid",
    "ppo/gold": "gold",
    "ppo/kl": "kl",
    "ppo/entropy": "entropy",
    "ppo/length": "length",
    "ppo/finished": "eos",
    "ppo/ptx_loss": "ptx",
    "valid/text_loss": "valid_loss",
    "ppo/clipfrac": "clip",
    "speed/episodes_per_s": "ep/s",
}
# The learning rate and the like, where there is room beside them: in PPO there is none.
UPDATE_LABELS = {
    "optim/lr": "lr",
    "optim/grad_norm": "grad_norm",
    "data/epoch": "epoch",
    "speed/pairs_per_s": "pairs/s",
    "speed/tokens_per_s": "tokens/s",
}
LINE_WIDTH = 120


class MetricsLog:
    """Appends rows to ``run_dir/metrics.jsonl`` and prints a line now and then.

    ``resume_step`` drops rows of a previous process at or after that step, so that a resumed run
    has one row per step, as an uninterrupted one has.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        resume_step: int = 0,
        sinks: Sequence[str] = (),
        print_every: int = 10,
        quiet: bool = False,
    ):
        self.path = run_dir / METRICS_FILE
        self.print_every = print_every
        self.quiet = quiet
        run_dir.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        keep_rows_before(self.path, resume_step)
        self._sinks = [_open_sink(name, run_dir) for name in sinks]
        self._start_s = time.monotonic()
        self._first_step = resume_step

    def log(self, step: int, values: Mapping[str, float], *, of: int | None = None) -> None:
        """Writes one row; prints it every ``print_every`` steps and at the last of ``of`` steps."""
        row = {"step": step} | {key: _plain(value) for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for sink in self._sinks:
            sink.write(step, values)
        if not self.quiet and (step % self.print_every == 0 or (of is not None and step + 1 == of)):
            print(self._line(step, values, of), file=sys.stderr, flush=True)

    def _line(self, step: int, values: Mapping[str, float], of: int | None) -> str:
        """The line of a step: no wider than a terminal, so that lines stand below each other."""
        line = f"step {step + 1}/{of}" if of else f"step {step + 1}"
        left = ""
        elapsed_s = time.monotonic() - self._start_s
        done = step + 1 - self._first_step
        if of and step + 1 < of and done > 1:
            left = f"  {duration(elapsed_s / done * (of - step - 1))} left"
        for key, label in _shown(values).items():
            field = f"  {label} {short_number(values[key])}"
            if len(line) + len(field) + len(left) > LINE_WIDTH:
                break
            line += field
        return line + left

    def close(self) -> None:
        """Ends the sinks, which may hold back their last rows until then."""
        for sink in self._sinks:
            sink.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl in step order; a last line cut by a kill is left out.

    Raises DataError where the file is missing or a line in its middle is broken.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist: is {run_dir} a run directory?")
    return _whole_rows(path)


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return rows


def last_values(run_dir: Path) -> dict[str, Any]:
    """The values of the newest row of a run, without its step; empty where there is none."""
    rows = read_metrics(run_dir)
    return {key: value for key, value in rows[-1].items() if key != "step"} if rows else {}


def keep_rows_before(path: Path, step: int, key: str = "step") -> None:
    """Drops the rows at or after ``step`` from a JSONL file, if there is one, and a cut last line.

    A resumed run calls it before it adds rows: it has each row once, as an uninterrupted one has.
    """
    if not path.exists():
        return
    kept = [row for row in _whole_rows(path) if row[key] < step]
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """The name beside ``path`` to write to; what was written takes its place at the end.

    Never half a file: after an error or a kill the one before is there as it was. ``durable`` waits
    until the disk has it, so that this holds for a power cut too.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _plain(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    """The keys of a row that its line shows, with their labels, in the line's order."""
    labels = LINE_LABELS if "ppo/score" in values else LINE_LABELS | UPDATE_LABELS
    shown = {key: label for key, label in labels.items() if key in values}
    return shown or {key: key for key in values}


def short_number(value: float) -> str:
    """Three digits, whole numbers in full."""
    number = float(value)
    if number != 0 and abs(number) < 1e-3:
        return f"{number:.2e}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 7s, 3m07s, 2h05m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class _Sink(NamedTuple):
    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


def _open_sink(name: str, run_dir: Path) -> _Sink:
    if name == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "TensorBoard is not installed: pip install 'heedful[tensorboard]'"
            ) from error
        writer = SummaryWriter(str(run_dir / "tensorboard"))

        def write(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, float(value), step)

        return _Sink(write, writer.close)
    if name == "wandb":
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                "Weights & Biases is not installed: pip install 'heedful[wandb]'"
            ) from error
        run = wandb.init(dir=str(run_dir), name=run_dir.name)
        return _Sink(lambda step, values: run.log(dict(values), step=step), run.finish)
    raise DataError(f"unknown metrics sink {name!r}: use 'tensorboard' or 'wandb'")


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that heedful wrote itself, one at a time."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)
