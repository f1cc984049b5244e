"""One stage of a recipe in its own process."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from heedful.errors import HeedfulError

WATCH_S = 1.0


def run_stage(
    command: str,
    settings: dict[str, Any],
    log_path: str,
    mark: str,
    threads: int,
    runner: int,
) -> None:
    """Runs ``heed <command>`` with the given settings; writes stage.json when it has succeeded.

    Output goes to the log. The process ends with code 0 or 1, and when the process ``runner`` dies.
    """
    _end_with(runner)
    started = time.time()
    with open(log_path, "a", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            from heedful.commands.table import run_command

            run_command(command, settings, threads=threads)
        except HeedfulError as error:
            print(f"error: {error}", flush=True)
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            log.flush()
            os._exit(1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
        done = {
            "fingerprint": mark,
            "command": command,
            "seconds": time.time() - started,
            "peak_gib": round(peak, 3),
            "outputs": sorted(path.name for path in Path(settings["run_dir"]).iterdir()),
        }
        path = Path(settings["run_dir"]) / "stage.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(done | {"settings": settings}, indent=2), encoding="utf-8")
        os.replace(partial, path)
        log.flush()
        os._exit(0)


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with(process_id: int) -> None:
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
