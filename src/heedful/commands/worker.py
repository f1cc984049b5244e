"""One stage of a recipe in its own process, and who may write to a run directory."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from heedful.commands.progress import PROGRESS_FILE
from heedful.errors import ConfigError, HeedfulError
from heedful.memory import memory_advice, out_of_memory, peak_gib
from heedful.metrics import replacing

STAGE_FILE = "stage.json"
LOCK_FILE = ".stage.lock"
STARTED_FILE = "started.txt"
SECONDS_FILE = ".seconds"
WATCH_S = 1.0
# A stage whose runner was killed ends within WATCH_S, more when the machine is busy.
LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.1


def prepare(directory: Path, mark: str) -> None:
    """Removes from a stage's directory an end, and the state of other settings or inputs."""
    started = directory / STARTED_FILE
    is_other = not started.is_file() or started.read_text(encoding="utf-8") != mark
    if is_other:
        shutil.rmtree(directory / "state", ignore_errors=True)
    if is_other or (directory / STAGE_FILE).is_file():  # not an attempt to be gone on with
        (directory / SECONDS_FILE).unlink(missing_ok=True)
    (directory / STAGE_FILE).unlink(missing_ok=True)
    (directory / PROGRESS_FILE).unlink(missing_ok=True)
    with replacing(started) as partial:
        partial.write_text(mark, encoding="utf-8")


def run_stage(
    command: str,
    settings: dict[str, Any],
    log_path: str,
    mark: str,
    threads: int,
    runner: int,
) -> None:
    """Runs ``heed <command>`` with the given settings; writes stage.json when it has succeeded.

    Output goes to the log. The process ends with code 0 or 1, with 143 when it was told to stop,
    and when the process ``runner`` dies.
    """
    end_with(runner)
    run_dir = Path(settings["run_dir"])
    with open(log_path, "a", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        # Ctrl-C reaches every process of the terminal: it is the runner that ends this one
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            from heedful.commands.table import run_command
            from heedful.training.stopping import stoppable

            with hold(run_dir), begun(run_dir, command), stoppable():
                seconds = _count_seconds(run_dir)
                run_command(command, settings, threads=threads)
                _write_done(run_dir, mark, command, settings, seconds())
        except HeedfulError as error:
            print(f"error: {error}", flush=True)
            os._exit(1)
        except KeyboardInterrupt as stop:  # of the runner; its message says what was saved
            print(str(stop) or "stopped", flush=True)
            os._exit(128 + getattr(stop, "number", signal.SIGTERM))
        except BaseException as error:
            traceback.print_exc()
            if out_of_memory(error):
                print(f"error: {memory_advice(error)}")
            log.flush()
            os._exit(1)
        log.flush()
        os._exit(0)


def _write_done(
    run_dir: Path, mark: str, command: str, settings: dict[str, Any], seconds: float
) -> None:
    """stage.json: the stage has ended, with what and at what cost."""
    outputs = [path.name for path in run_dir.iterdir() if not path.name.startswith(".")]
    done = {
        "fingerprint": mark,
        "command": command,
        "seconds": seconds,
        "peak_gib": round(peak_gib(), 3),
        "outputs": sorted(outputs),
        "settings": settings,
    }
    with replacing(run_dir / STAGE_FILE) as partial:
        partial.write_text(json.dumps(done, indent=2), encoding="utf-8")


@contextmanager
def hold(directory: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Keeps every other process that asks from writing to a run directory, until the end.

    The lock belongs to the open file: the kernel gives it back however its process dies. Waits a
    while for one that is about to end; raises ConfigError naming the process that does not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK_FILE).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_WAIT_S
        said = False
        while not _lock(file):
            file.seek(0)
            number = file.read()  # nothing yet from one that has only just begun
            holder = f"process {number}" if number else "another process"
            if time.monotonic() > deadline:
                end = f", end it (kill {number})" if number else ""
                raise ConfigError(
                    f"{directory} is being written to by {holder}: wait for it{end}, or give "
                    "another run_dir"
                )
            if not said:
                say(f"waiting for {holder}, which still writes to {directory}")
                said = True
            time.sleep(LOCK_POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def begun(run_dir: Path, command: str) -> Iterator[None]:
    """Marks a run directory until the command that runs here has ended well.

    After a kill or an error the mark stays: a result that is there is then of an earlier run.
    """
    mark = mark_of(run_dir, command)
    mark.touch()
    yield
    mark.unlink()


def mark_of(run_dir: Path, command: str) -> Path:
    """Where the mark of a command that has begun and not ended stands."""
    return run_dir / f".begun-{command}"


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _count_seconds(run_dir: Path) -> Callable[[], float]:
    """Gives the seconds of this attempt and of those before it that a kill or an error ended.

    They are written down all the while, because an attempt does not know its end.
    """
    file, start = run_dir / SECONDS_FILE, time.monotonic()
    try:
        before = float(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the first attempt, or a power cut
        before = 0.0

    def seconds() -> float:
        return before + time.monotonic() - start

    def count() -> None:
        while True:
            with suppress(OSError), replacing(file, durable=False) as partial:
                partial.write_text(f"{seconds():.2f}", encoding="utf-8")
            time.sleep(WATCH_S)

    threading.Thread(target=count, daemon=True).start()
    return seconds


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with(process_id: int) -> None:
    """Ends this process soon after the one that runs the recipe, so that a kill leaves none behind.

    The parent of a stage is the fork server, not the runner: it is the runner that is watched.
    """

    def watch() -> None:
        while _is_alive(process_id):
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
