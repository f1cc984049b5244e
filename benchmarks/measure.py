"""What the benchmarks share: child processes with their time and memory, and tables.

The benchmarks themselves never import torch: what a child reports as its peak memory would
otherwise begin at its parent's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
# glibc keeps freed memory and maps no block alone: heedful asks for it itself, the peer is given it
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
LOG_LINES = 15


class Child(NamedTuple):
    """What the system says of a process that has ended."""

    seconds: float  # from its start to its end
    peak_gib: float  # most memory that it held
    others: float  # share of the machine's cores that other processes had meanwhile


def run_child(command: Sequence[str | Path], log: Path, threads: int) -> Child:
    """Runs a command with the allocator's settings and a number of threads, and measures it.

    Raises SystemExit with the end of its log where it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(threads)}
    # no network, no tracker: what is not in the files is not part of the comparison
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # one device is compared: trainers of the peer's would take several
    devices = environment.get("CUDA_VISIBLE_DEVICES", "0")
    environment["CUDA_VISIBLE_DEVICES"] = devices.split(",")[0]
    busy_s, start = machine_busy_s(), time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(
            [str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait again
    seconds = time.monotonic() - start
    if child.returncode != 0:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise SystemExit("\n".join([f"{log}: exit code {child.returncode}", *end]))
    others_s = machine_busy_s() - busy_s - usage.ru_utime - usage.ru_stime
    # ru_maxrss is in KiB on Linux, in bytes on macOS
    unit = 2**20 if sys.platform == "linux" else 2**30
    cores = os.cpu_count() or 1
    return Child(seconds, usage.ru_maxrss / unit, max(0.0, others_s / (cores * seconds)))


def machine_busy_s() -> float:
    """Seconds of processor time that all processes have had; 0 where Linux's /proc is missing."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system, _idle, _wait, *rest = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


def make_workload(settings: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The counts of a workload that is made, or kept, in a directory."""
    script = [sys.executable, HERE / "workload.py", json.dumps(settings), directory]
    run_child(script, directory.parent / f"{directory.name}.log", os.cpu_count() or 1)
    return json.loads((directory / "workload.json").read_text(encoding="utf-8"))["counts"]


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def kept_rows(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file of results, if it is there, that were measured with these settings.

    Says how many others it leaves out, and why: the head of the results speaks for all their rows.
    """
    rows = rows_of(file) if file.is_file() else []
    kept = [row for row in rows if all(row.get(key) == settings[key] for key in settings)]
    if len(kept) < len(rows):
        this = ", ".join(f"{key} {value}" for key, value in settings.items())
        left_out = f"{file}: {len(rows) - len(kept)} of {len(rows)} rows are not of {this}"
        print(f"{left_out}: left out, and measured again where they are asked for", file=sys.stderr)
    return kept


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Adds a row to a file of results: what is done stays done when a benchmark is stopped."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def commit() -> str | None:
    """The commit that is checked out, "+" and a hash of what src and benchmarks differ by.

    None where there is no git, or no repository.
    """
    head = git("rev-parse", "--short", "HEAD").decode().strip()
    changes = git("diff", "HEAD", "--", str(HERE.parent / "src"), str(HERE))
    mark = f"+{hashlib.sha256(changes).hexdigest()[:7]}" if changes else ""
    return head + mark if head else None


def git(*words: str) -> bytes:
    """What a git command prints; nothing where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three digits that count, the first column to the left."""
    lines = [[*head], ["---", *["---:"] * (len(head) - 1)]]
    lines += [[shown(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """A value as text: 1,234, 12.3, 1.23, 0.0123."""
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the numbers belong to: processor, cores, versions and the commit."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
