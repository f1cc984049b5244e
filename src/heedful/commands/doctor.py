"""heed doctor: what this machine has, and what it does, measured in a few seconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heedful import __version__
from heedful.memory import tune_allocator

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy")
# As in heedful.models.language_model.pick_dtype: bf16 has to be this much faster than fp32.
BF16_GAIN = 1.5
MATMUL_SHAPE = (1024, 512, 512)
PROBE_MIB = 16
PROBE_REPEATS = 24
# Asks a fresh interpreter, because malloc can only be set up before it is used.
PROBE = "from heedful.commands.doctor import probe_allocator; probe_allocator()"


def run_doctor() -> int:
    """Prints the table; returns 0."""
    probes = {name: _start_probe(name) for name in ("tuned", "default")}
    rows = [*_software(), *_machine()]
    rates = matmul_rates()
    rows += _compute_rows(rates)
    rows.append(("allocator", _allocator_row(probes)))
    rows += [("free disk", _disk(Path.cwd())), ("git", _git())]
    table = Table(title=f"heedful {__version__}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)
    return 0


def _software() -> list[tuple[str, str]]:
    rows = [("python", f"{platform.python_version()} ({sys.executable})")]
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed: pip install 'heedful\\[train]'"))
    return rows


def _machine() -> list[tuple[str, str]]:
    total, free = memory_gib()
    memory = "not known" if total is None else f"{total:.1f} GiB, {free:.1f} GiB free"
    return [
        ("system", f"{platform.system()} {platform.release()} ({platform.machine()})"),
        ("processor", processor_name()),
        ("cores", _cores()),
        ("memory", memory),
    ]


def processor_name() -> str:
    """The name of the processor, as the system tells it."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "not known"


def _cores() -> str:
    """Cores that this process may use, of those of the machine, and how busy they are now."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{usable} of {os.cpu_count()}{load}"


def memory_gib() -> tuple[float | None, float]:
    """(total, free) memory in GiB; (None, 0) where the system does not say."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None, 0.0
    values = {
        line.split(":")[0]: int(line.split()[1])
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.endswith("kB")
    }
    return values["MemTotal"] / 2**20, values.get("MemAvailable", 0) / 2**20


def matmul_rates() -> dict[str, float]:
    """FLOP per second of a matrix product in fp32 and bf16 on the CPU; empty without torch."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from heedful.models.matmul import tune_matmul

    tune_matmul()
    rates = {}
    rows, inner, columns = MATMUL_SHAPE
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        a = torch.randn(rows, inner, dtype=dtype)
        b = torch.randn(inner, columns, dtype=dtype)
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            torch.mm(a, b)
            seconds.append(time.perf_counter() - start)
        rates[name] = 2 * rows * inner * columns / min(seconds)
    return rates


def auto_dtype(rates: Mapping[str, float]) -> str:
    """The dtype that compute.dtype = "auto" takes on a CPU with these rates."""
    return "bfloat16" if rates["bfloat16"] > BF16_GAIN * rates["float32"] else "float32"


def _compute_rows(rates: Mapping[str, float]) -> list[tuple[str, str]]:
    if not rates:
        return []
    import torch

    found = [
        (f"matmul {name}", f"{rate / 1e9:,.0f} GFLOP/s ({torch.get_num_threads()} threads)")
        for name, rate in rates.items()
    ]
    accelerator = "none"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        accelerator = f"{torch.cuda.get_device_name()}, {memory:.0f} GiB (not used yet)"
    dtype, gain = auto_dtype(rates), rates["bfloat16"] / rates["float32"]
    reason = f"bf16 is {gain:.1f} times as fast as fp32, needed {BF16_GAIN}"
    return [("accelerator", accelerator), *found, ('dtype "auto"', f"{dtype}: {reason}")]


def probe_allocator() -> None:
    """Prints the seconds that new blocks take, once a line comes in; run in a subprocess."""
    import numpy as np

    tuned = tune_allocator()
    size = PROBE_MIB * 2**18  # fp32 numbers
    ones = np.ones(size, np.float32)
    _ = ones + ones
    sys.stdin.readline()
    start = time.perf_counter()
    for _ in range(PROBE_REPEATS):
        _ = ones + ones  # a new block every time, freed at the next
    print(time.perf_counter() - start, tuned)


def _start_probe(malloc: str) -> subprocess.Popen[str]:
    """A process that waits with its allocator "tuned" or as the system has it."""
    # torch asks for no huge pages where numpy would: without them the blocks are as torch's are
    settings = {"HEEDFUL_MALLOC": malloc, "NUMPY_MADVISE_HUGEPAGE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _allocator_row(probes: Mapping[str, subprocess.Popen[str]]) -> str:
    answers: dict[str, list[Any]] = {}
    for name, process in probes.items():
        try:
            answers[name] = process.communicate("\n", timeout=20)[0].split()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            answers[name] = []
    if not all(len(answer) == 2 for answer in answers.values()):
        return "could not be measured"
    tuned, default = float(answers["tuned"][0]), float(answers["default"][0])
    each = (
        f"{1e3 * tuned / PROBE_REPEATS:.1f} ms, by default {1e3 * default / PROBE_REPEATS:.1f} ms"
    )
    if answers["tuned"][1] != "True":
        return f"left as it is (not glibc): {each} for a new block of {PROBE_MIB} MiB"
    return f"tuned: {each} for a new block of {PROBE_MIB} MiB ({default / tuned:.1f} times as fast)"


def _disk(directory: Path) -> str:
    usage = shutil.disk_usage(directory)
    return f"{usage.free / 2**30:,.1f} of {usage.total / 2**30:,.1f} GiB at {directory}"


def _git() -> str:
    """Commit of the source tree and whether it has changes."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    if commit is None:
        return "not a checkout"
    changed = len((git("status", "--porcelain") or "").splitlines())
    return f"{commit}, " + (f"{changed} files changed" if changed else "no changes")
