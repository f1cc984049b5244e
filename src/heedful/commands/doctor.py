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
# As in heedful.models.device.pick_dtype: bf16 has to be this much faster than fp32.
BF16_GAIN = 1.5
BF16_CAPABILITY = (8, 0)
DTYPES = ("float32", "bfloat16")
MATMUL_SHAPE = (1024, 512, 512)
CUDA_MATMUL_SHAPE = (8192, 4096, 4096)  # a smaller one does not fill a large device
PROBE_MIB = 16
PROBE_REPEATS = 24
# Asks a fresh interpreter, because malloc can only be set up before it is used.
PROBE = "from heedful.commands.doctor import probe_allocator; probe_allocator()"


def run_doctor() -> int:
    """Prints the table; returns 0."""
    probes = {name: _start_probe(name) for name in ("tuned", "default")}
    rows = [*_software(), *_machine()]
    rows += _compute_rows(matmul_rates())
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


def matmul_rates(device: str = "cpu") -> dict[str, float]:
    """FLOP per second of a device's matrix product in fp32 and bf16; empty without torch.

    RuntimeError says why a CUDA device cannot do it.
    """
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from heedful.models.matmul import tune_matmul
    from heedful.training.profiling import matmul_rate

    tune_matmul()
    shape = MATMUL_SHAPE if device == "cpu" else CUDA_MATMUL_SHAPE
    return {name: matmul_rate(shape, getattr(torch, name), device=device) for name in DTYPES}


def auto_dtype(rates: Mapping[str, float]) -> str:
    """The dtype that compute.dtype = "auto" takes on a CPU with these rates."""
    return "bfloat16" if rates["bfloat16"] > BF16_GAIN * rates["float32"] else "float32"


def _compute_rows(rates: Mapping[str, float]) -> list[tuple[str, str]]:
    if not rates:
        return []
    import torch

    from heedful.models.device import pick_device

    matmuls = [
        (f"matmul {name}", f"{rate / 1e9:,.0f} GFLOP/s ({torch.get_num_threads()} threads)")
        for name, rate in rates.items()
    ]
    device = pick_device("auto")
    if device.type == "cuda":
        accelerators = [_cuda_device(index) for index in range(torch.cuda.device_count())]
        matmuls += _cuda_matmuls()
        why, dtype = "torch finds a CUDA device", _cuda_dtype(device)
    else:
        accelerators = [_no_accelerator()]
        gain = rates["bfloat16"] / rates["float32"]
        reason = f"bf16 is {gain:.1f} times as fast as fp32, needed {BF16_GAIN}"
        why, dtype = "torch finds no CUDA device", f"{auto_dtype(rates)}: {reason}"
    return [
        *(("accelerator", found) for found in accelerators),
        *matmuls,
        ('device "auto"', f"{device}: {why}"),
        ('dtype "auto"', dtype),
    ]


def _cuda_device(index: int) -> str:
    """What a CUDA device is, and how much of its memory is free."""
    import torch

    capability = torch.cuda.get_device_capability(index)
    bf16 = "bfloat16" if capability >= BF16_CAPABILITY else "no bfloat16"
    try:
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"
    except RuntimeError as error:  # another process may have it for itself
        memory = f"memory not known ({_first_line(error)})"
    version = ".".join(map(str, capability))
    name = torch.cuda.get_device_name(index)
    return f"cuda:{index}: {name}, {memory}, compute capability {version}, {bf16}"


def _cuda_matmuls() -> list[tuple[str, str]]:
    try:
        rates = matmul_rates("cuda")
    except RuntimeError as error:  # no memory is left, or torch was not built for this device
        return [("matmul cuda", f"could not be measured: {_first_line(error)}")]
    return [(f"matmul cuda {name}", f"{rate / 1e12:,.1f} TFLOP/s") for name, rate in rates.items()]


def _cuda_dtype(device: Any) -> str:
    """The dtype that compute.dtype = "auto" takes on a CUDA device, and why."""
    from heedful.models.device import pick_dtype

    if str(pick_dtype("auto", device)) == "torch.bfloat16":
        return "bfloat16: the CUDA device has it"
    needed = ".".join(map(str, BF16_CAPABILITY))
    return f"float32: the CUDA device has no bfloat16 (compute capability {needed} needed)"


def _no_accelerator() -> str:
    """That there is none, and what to install where there seems to be one."""
    import torch

    if shutil.which("nvidia-smi") is None:
        return "none"
    if torch.version.cuda is None:
        return (
            f"none: nvidia-smi is there, but torch {torch.__version__} is built without CUDA: "
            "install a torch that is built for CUDA to use the device"
        )
    return (
        f"none: nvidia-smi is there, but torch {torch.__version__}, built for CUDA "
        f"{torch.version.cuda}, finds no device: CUDA_VISIBLE_DEVICES may hide it, or the driver "
        "is too old: install a newer driver, or a torch that is built for an older CUDA"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


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
