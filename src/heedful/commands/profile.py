"""heed ... --profile: where the time of a few updates goes, beside what the machine can do.

Writes trace.json.gz (a Chrome trace), profile.json and profile.md into the run directory and prints
the tables at the end. Training is the same with and without: labels change no number.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from heedful.commands import sample
from heedful.data.text import TextRows
from heedful.metrics import METRICS_FILE, read_metrics, replacing
from heedful.training import step0_pretrain, step1_sft, step2_reward, step3_ppo
from heedful.training.evaluations import Evaluations
from heedful.training.loop import Adam
from heedful.training.profiling import (
    Label,
    Progress,
    Recorded,
    Recorder,
    Window,
    labelled,
    matmul_rate,
    watching,
)
from heedful.training.trace import (
    OUTSIDE,
    Operation,
    has_device_work,
    host_seconds,
    operations,
    phase_seconds,
    product_shape,
    read_trace,
)

TRACE_FILE, JSON_FILE, PAGE_FILE = "trace.json.gz", "profile.json", "profile.md"
WINDOWS = {"ppo": Window(3, 1), "sample": Window(2, 2)}  # an update of PPO is a whole iteration
WINDOW = Window(4, 3)
NUM_OPERATORS = 15
NUM_SHAPES = 3  # of an operator, those that took most time
PEAK_SHAPES = 6  # the model's own, by FLOPs
PEAK_DTYPES = ("float32", "bfloat16")
IDLE = "idle"  # the phase of what is left of the window where seconds are a device's


def labels_of(command: str) -> list[Label]:
    """The phases of a command, put on the functions that they are.

    In an update, what is neither data, backward nor optimizer is the forward pass with its loss.
    """
    if command == "sample":
        return [
            Label(sample, "load_language_model", "load"),
            Label(sample, "load_scalar_model", "load"),
            Label(sample, "sample", "generate", count=lambda rollout: int(rollout.lengths.sum())),
            Label(sample.Judge, "scores", "score"),
        ]
    if command == "ppo":
        return [
            Label(step3_ppo, "sample", "generate"),
            Label(step3_ppo, "collect", "experience", is_open=True),
            Label(step3_ppo, "_reference_logprobs", "reference"),
            Label(step3_ppo, "response_values", "values"),
            Label(step3_ppo, "final_scores", "score"),
            Label(step3_ppo, "response_logprobs", "logprobs"),
            Label(step3_ppo, "_optimize", "optimize", is_open=True),
            Label(step3_ppo, "_accumulate", "optimize"),
            Label(step3_ppo, "accumulate_text", "ptx"),
            Label(Evaluations, "_found", "validate"),
            Label(step3_ppo, "save_state", "save"),
        ]
    step, update, validate = {
        "pretrain": (step0_pretrain, "accumulate_text", "text_loss"),
        "sft": (step1_sft, "_update", "_validate"),
        "reward": (step2_reward, "_update", "evaluate"),
    }[command]
    return [
        Label(step, update, "forward", is_open=True),
        *([] if command == "pretrain" else [Label(step, "make_sequences", "data")]),
        Label(TextRows, "draw", "data"),
        Label(torch.Tensor, "backward", "backward"),
        *(Label(Adam, name, "optimizer") for name in ("grad_norm", "step")),
        Label(step, validate, "validate"),
        Label(step, "save_state", "save"),
    ]


def run_profiled(command: str, run: Callable[[], None]) -> None:
    """Runs a command with a window of its updates profiled, and prints what was found."""
    window = WINDOWS.get(command, WINDOW)
    reports: list[dict[str, Any]] = []
    recorders: list[Recorder] = []
    with labelled(labels_of(command)) as tokens:

        def watch(progress: Progress, run_dir: Path, dtype: str, device: str) -> Progress:
            recorder = Recorder(run_dir / TRACE_FILE, window, tokens, device)
            recorders.append(recorder)

            def report(done: int, total: int) -> None:
                recorded = recorder.advance(done, total)
                if recorded is not None:
                    reports.append(write_report(command, run_dir, dtype, recorded))
                progress(done, total)

            recorder.start()
            return report

        try:
            with watching(watch):
                run()
        finally:
            for recorder in recorders:
                recorder.abandon()
    if not reports:
        print("nothing was profiled: no update was left to do", file=sys.stderr)
    for report in reports:
        print_report(report)


def write_report(command: str, run_dir: Path, dtype: str, recorded: Recorded) -> dict[str, Any]:
    """The report of a window whose trace is in the run directory, written beside it."""
    report = make_report(command, run_dir, dtype, recorded)
    with replacing(run_dir / JSON_FILE) as partial:
        partial.write_text(json.dumps(report, indent=2), encoding="utf-8")
    with replacing(run_dir / PAGE_FILE) as partial:
        partial.write_text(page_of(report), encoding="utf-8")
    return report


def make_report(command: str, run_dir: Path, dtype: str, recorded: Recorded) -> dict[str, Any]:
    """Everything that profile.json holds. Seconds are of the window, rates per second of it."""
    events = read_trace(run_dir / TRACE_FILE)
    calls = operations(events)
    peaks = measure_peaks(calls, recorded.device)
    peak = max(entry["flops_per_s"] for entry in peaks if entry["dtype"] == dtype)
    total_s = recorded.seconds
    phases = _phases(events, calls, total_s, peak)
    operators = _operators(calls, peak)[:NUM_OPERATORS]
    rows: list[dict[str, Any]] = [*phases, *operators]
    for row in rows:
        row["share"] = row["seconds"] / total_s
    return {
        "command": command,
        "run_dir": str(run_dir),
        "updates": [recorded.last - recorded.num_updates + 1, recorded.last],
        "dtype": dtype,
        "device": recorded.device,
        "device_name": _device_name(recorded.device),
        "seconds_of": "device" if has_device_work(events) else "host",
        "threads": torch.get_num_threads(),
        **_rates(calls, total_s, peak),
        **_speeds(run_dir, recorded),
        "peak_gib": recorded.peak_gib,
        "device_peak_gib": recorded.device_peak_gib,
        "share_outside_operators": max(0.0, 1 - sum(call.seconds for call in calls) / total_s),
        "phases": phases,
        "operators": operators,
        "matmul_peaks": peaks,
    }


def _device_name(device: str) -> str | None:
    """What a CUDA device is called; None for the processor."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def _phases(
    events: Sequence[dict[str, Any]], calls: Sequence[Operation], total_s: float, peak: float
) -> list[dict[str, Any]]:
    """One row per phase, by seconds, and one for the rest of the window.

    Where seconds are a device's, host seconds stand beside them, and the rest is the time in which
    the device had nothing to do.
    """
    host = host_seconds(events)
    host[OUTSIDE] = max(0.0, total_s - sum(host.values()))
    seconds = host
    if has_device_work(events):
        seconds = dict.fromkeys(host, 0.0) | phase_seconds(events)
        seconds[IDLE] = max(0.0, total_s - sum(seconds.values()))
    rows = []
    for phase in sorted(seconds, key=lambda phase: -seconds[phase]):
        own = [call for call in calls if call.phase == phase]
        row = {"phase": phase or "other"} | _rates(own, seconds[phase], peak)
        if seconds is not host and phase != IDLE:
            row["host_seconds"] = host.get(phase, 0.0)
        rows.append(row)
    return rows


def _rates(calls: Iterable[Operation], seconds: float, peak: float) -> dict[str, Any]:
    """Seconds, FLOP per second of the matrix products in them, and its share of the peak."""
    rate = sum(call.flops for call in calls) / max(seconds, 1e-9)
    return {"seconds": seconds, "matmul_flops_per_s": rate, "share_of_peak": rate / peak}


def _operators(calls: Iterable[Operation], peak: float) -> list[dict[str, Any]]:
    """One row per operator, by own time, with the shapes that took most of it."""
    rows = []
    for (name,), group in _grouped(calls, lambda call: (call.name,)):
        shapes = [
            {"shapes": [list(shape) for shape in dims], "dtype": dtype, "calls": len(part)}
            | _rates(part, sum(call.seconds for call in part), peak)
            for (dims, dtype), part in _grouped(group, lambda call: (call.shapes, call.dtype))
        ]
        rates = _rates(group, sum(call.seconds for call in group), peak)
        numbers = {"calls": len(group), "num_shapes": len(shapes), "shapes": shapes[:NUM_SHAPES]}
        rows.append({"operator": name, **rates, **numbers})
    return rows


def _grouped(
    calls: Iterable[Operation], key: Callable[[Operation], tuple[Any, ...]]
) -> list[tuple[tuple[Any, ...], list[Operation]]]:
    """Calls by key, the key that took most time first."""
    groups: dict[tuple[Any, ...], list[Operation]] = {}
    for call in calls:
        groups.setdefault(key(call), []).append(call)
    return sorted(groups.items(), key=lambda item: -sum(call.seconds for call in item[1]))


def _speeds(run_dir: Path, recorded: Recorded) -> dict[str, float]:
    """tokens/s and FLOP/s as the run logs them, in the window and before its rehearsal."""
    if not (run_dir / METRICS_FILE).is_file():
        return {"tokens_per_s": recorded.num_tokens / recorded.seconds}
    rows = {row["step"]: row for row in read_metrics(run_dir)}
    first = recorded.last - recorded.num_updates
    inside = [rows[step] for step in range(first, recorded.last)]
    end = first - 1  # the one between was the rehearsal
    before = [rows[step] for step in range(end - recorded.num_before, end) if step in rows]
    found = {
        "tokens_per_s": _mean(inside, "speed/tokens_per_s"),
        "flops_per_s": _mean(inside, "speed/flops_per_s"),
    }
    if before:
        found["tokens_per_s_before"] = _mean(before, "speed/tokens_per_s")
    return found


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def measure_peaks(calls: Iterable[Operation], device: str = "cpu") -> list[dict[str, Any]]:
    """Rates of a device's bare matrix products at the shapes that did most of the window's work.

    The largest of a dtype is the peak that shares are of. A window without any (which no model has)
    is measured at one shape.
    """
    done: dict[tuple[int, ...], int] = {}
    for call in calls:
        if shape := product_shape(call.name, call.shapes):
            done[shape] = done.get(shape, 0) + call.flops
    shapes = sorted(done, key=lambda shape: -done[shape])[:PEAK_SHAPES] or [(1024, 512, 512)]
    peaks = []
    for shape in shapes:
        for name in PEAK_DTYPES:
            rate = matmul_rate(shape, getattr(torch, name), device=device)
            peaks.append({"shape": shape, "dtype": name, "flops_per_s": rate})
    return peaks


class _Block(NamedTuple):
    """A table, for the page and for the terminal."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class _Unit(NamedTuple):
    """What rates are given in."""

    name: str
    flops: float  # per second
    decimals: int  # of peaks; other rates have one


def _unit(report: dict[str, Any]) -> _Unit:
    if report["device"] == "cpu":
        return _Unit("GFLOP/s", 1e9, 0)
    return _Unit("TFLOP/s", 1e12, 1)


def _blocks(report: dict[str, Any]) -> list[_Block]:
    unit = _unit(report)
    of_device = report["seconds_of"] == "device"
    decimals = 3 if of_device else 2  # its updates are short
    phases = [
        (
            row["phase"],
            f"{row['seconds']:.{decimals}f}",
            f"{row['share']:.1%}",
            *([_host_cell(row)] if of_device else []),
            *_speed_cells(row, unit),
        )
        for row in report["phases"]
    ]
    operators = [
        (
            row["operator"].removeprefix("aten::"),
            f"{row['share']:.1%}",
            f"{row['calls']:,}",
            *_speed_cells(row, unit),
            _shapes_cell(row),
        )
        for row in report["operators"]
    ]
    peaks = [
        (
            " x ".join(map(str, row["shape"])),
            row["dtype"],
            f"{row['flops_per_s'] / unit.flops:,.{unit.decimals}f}",
        )
        for row in report["matmul_peaks"]
    ]
    outside = f"Operators: {report['share_outside_operators']:.1%} of the time is outside of them"
    title = "Operators, by what the device did for them" if of_device else outside
    times = ("device s", "share", "host s") if of_device else ("s", "share")
    speed = (f"matmul {unit.name}", "of peak")
    return [
        _Block("Phases", ("phase", *times, *speed), phases),
        _Block(title, ("operator", "share", "calls", *speed, "most time at"), operators),
        _Block("Bare matrix products", ("shape", "dtype", unit.name), peaks),
    ]


def _host_cell(row: dict[str, Any]) -> str:
    return f"{row['host_seconds']:.3f}" if "host_seconds" in row else ""


def _speed_cells(row: dict[str, Any], unit: _Unit) -> tuple[str, str]:
    if row["matmul_flops_per_s"] == 0:
        return "", ""
    return f"{row['matmul_flops_per_s'] / unit.flops:,.1f}", f"{row['share_of_peak']:.1%}"


def _shapes_cell(row: dict[str, Any]) -> str:
    """The shape that took most time, its dtype, and how many others there are."""
    first = row["shapes"][0]
    if not first["shapes"]:
        return ""
    shape = ", ".join("x".join(map(str, dims)) for dims in first["shapes"])
    others = f" and {row['num_shapes'] - 1} more" if row["num_shapes"] > 1 else ""
    return f"{shape} {first['dtype']}{others}"


def _facts(report: dict[str, Any]) -> list[str]:
    """Lines above the tables."""
    first, last = report["updates"]
    unit = _unit(report)
    peak = report["matmul_flops_per_s"] / max(report["share_of_peak"], 1e-12)
    name = "" if report["device_name"] is None else f" ({report['device_name']})"
    memory = f"peak memory of the process {report['peak_gib']:.2f} GiB"
    if report["device_peak_gib"] is not None:
        memory += f", of the device {report['device_peak_gib']:.2f} GiB"
    lines = [
        f"heed {report['command']}, updates {first} to {last}: {report['seconds']:.2f} s, "
        f"{report['dtype']} on {report['device']}{name}, threads: {report['threads']}",
        f"{report['tokens_per_s']:,.0f} tokens/s while profiled"
        + (
            f", {report['tokens_per_s_before']:,.0f} in the updates before"
            if "tokens_per_s_before" in report
            else ""
        ),
        f"{report['matmul_flops_per_s'] / unit.flops:,.1f} {unit.name} in matrix products: "
        f"{report['share_of_peak']:.1%} of the peak of {peak / unit.flops:,.{unit.decimals}f} "
        f"{unit.name} measured here",
        memory,
    ]
    if "flops_per_s" in report:
        rate = f"{report['flops_per_s'] / unit.flops:,.1f} {unit.name}"
        lines.insert(2, f"{rate} by the model's parameters and tokens")
    if report["device"] != "cpu" and report["seconds_of"] == "host":
        lines.append(
            "the trace has no times of the device, as some drivers give them to administrators "
            "alone: phases and operators have the seconds of the host, which does not wait for it"
        )
    return lines


def page_of(report: dict[str, Any]) -> str:
    """profile.md."""
    lines = ["# Profile", "", *(f"- {fact}" for fact in _facts(report)), ""]
    for block in _blocks(report):
        lines += [f"## {block.title}", "", f"| {' | '.join(block.columns)} |"]
        lines += ["|---" * len(block.columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in block.rows] + [""]
    return "\n".join(lines)


def print_report(report: dict[str, Any]) -> None:
    """The same tables in the terminal."""
    console = Console()
    for fact in _facts(report):
        console.print(fact, highlight=False)
    for block in _blocks(report):
        table = Table(title=block.title, title_justify="left")
        for name in block.columns:
            is_text = name in ("phase", "operator", "shape", "dtype", "most time at")
            table.add_column(name, justify="left" if is_text else "right", overflow="fold")
        for row in block.rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{report['run_dir']}: {TRACE_FILE}, {PAGE_FILE}, {JSON_FILE}", highlight=False)
