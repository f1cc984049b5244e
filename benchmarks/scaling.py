"""How time and memory of our training steps grow with the model, the lengths and the batch.

    python benchmarks/scaling.py                          # every work and axis: an hour or so
    python benchmarks/scaling.py --only reward --axes completions
    python benchmarks/scaling.py --device cuda            # memory is then the device's
    python benchmarks/scaling.py --quick                  # two points an axis, does it run?

One thing at a time is moved away from a base point (hidden 256, 6 layers, vocabulary 8192, prompts
and responses of 64 tokens each, 32 sequences, K = 4, one thread, bf16). Every point is a process of
its own. Points that are done are kept: the same command goes on where it was stopped; those of
another commit or device are left out. Writes results.json, and results.md with the exponents of
log-log fits: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import accelerator
import measure
import ours
from workload import Shape

ROOT = measure.HERE.parent
RUNS_FILE = "runs.jsonl"
STEPS = 4  # the first warms up
WORKS = ("sft", "reward", "ppo")


@dataclass(frozen=True)
class Point:
    """One run; sequences are all of one length, half prompt and half response."""

    work: str
    hidden: int = 256
    layers: int = 6
    vocabulary: int = 8192
    tokens: int = 128  # of a sequence
    prompts: int = 32  # of an update; of a reward model's, a K-th
    completions: int = 4  # K; reward model alone
    threads: int = 1

    @property
    def num_prompts(self) -> int:
        """Prompts of an update, with one response each or K."""
        return max(1, self.prompts // Point.completions) if self.work == "reward" else self.prompts

    @property
    def num_tokens(self) -> int:
        """Tokens of an update's sequences, prompts counted with every response."""
        responses = self.completions if self.work == "reward" else 1
        return self.num_prompts * responses * self.tokens

    @property
    def mlp(self) -> int:
        return self.hidden * 11 // 4

    @property
    def parameters(self) -> int:
        """Weights of the Llama with this shape."""
        return Shape(self.hidden, self.layers, 1, self.mlp, self.vocabulary).num_weights

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())


# What is moved, and by what it is counted in a table.
AXES: dict[str, tuple[str, Sequence[int]]] = {
    "model": ("hidden", (128, 256, 512, 768, 1024)),
    "length": ("tokens", (32, 64, 128, 256, 512, 1024)),
    "batch": ("prompts", (8, 16, 32, 64, 128)),
    "completions": ("completions", (2, 4, 6, 9)),
    "threads": ("threads", (1, 2)),
}
COUNTED = {"model": "parameters", "batch": "num_prompts"}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    points = plan(options.only, options.axes, options.quick)
    if options.dry_run:
        print("\n".join(point.name for point in points))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / RUNS_FILE
    same = conditions(options)
    rows = measure.kept_rows(file, same)
    known = {row["name"] for row in rows}
    idle_gib = idle_memory_gib(options.out) if options.device == "cpu" else 0.0
    for number, point in enumerate(points, start=1):
        if point.name in known:
            continue
        row = same | measured(point, options.out, options.device)
        rows.append(row)
        measure.append_row(file, row)
        print(f"{number}/{len(points)} {point.name}: {row['step_s']:.3g} s", flush=True)
    found = {row["name"]: row for row in rows}
    idle = {"idle_gib": round(idle_gib, 2)} if options.device == "cpu" else {}
    about = measure.machine() | same | idle
    text = json.dumps({"machine": about, "runs": rows}, indent=2)
    (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    text = report(options.only, options.axes, options.quick, found, idle_gib, about)
    (options.out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(WORKS), help="works (default: %(default)s)")
    parser.add_argument("--device", choices=accelerator.DEVICES, default="cpu")
    parser.add_argument("--axes", help=f"default: {','.join(AXES)}; on CUDA without threads")
    parser.add_argument("--quick", action="store_true", help="two small points an axis")
    parser.add_argument("--dry-run", action="store_true", help="print the points and stop")
    parser.add_argument("--out", type=Path, help="default: runs/scaling")
    options = parser.parse_args(arguments)
    if options.axes is None:
        axes = [axis for axis in AXES if options.device == "cpu" or axis != "threads"]
        options.axes = ",".join(axes)
    for name, known in (("only", WORKS), ("axes", AXES)):
        words = getattr(options, name).split(",")
        setattr(options, name, words)
        if unknown := [word for word in words if word not in known]:
            parser.error(f"--{name}: {unknown[0]!r} is none of {', '.join(known)}")
    kind = "scaling" if options.device == "cpu" else f"scaling-{options.device}"
    kind += "-quick" if options.quick else ""
    options.out = (options.out or ROOT / "runs" / kind).resolve()
    return options


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one table must have in common, which their names do not say."""
    return {"commit": measure.commit()} | accelerator.about(options.device, options.out)


def line(work: str, axis: str, quick: bool) -> list[Point]:
    """The points of one axis for one work."""
    if axis == "completions" and work != "reward":
        return []
    field, values = AXES[axis]
    base = Point(work)
    if quick:
        values = values[:2]
        base = replace(base, hidden=64, layers=2, vocabulary=128, tokens=16, prompts=8)
    return [replace(base, **{field: value}) for value in values]


def plan(works: Sequence[str], axes: Sequence[str], quick: bool) -> list[Point]:
    """Every point once; axes share their base point."""
    points = [point for work in works for axis in axes for point in line(work, axis, quick)]
    return list(dict.fromkeys(points))


def idle_memory_gib(out: Path) -> float:
    """Memory of a process that has imported what training needs, and has no model."""
    command = [sys.executable, "-c", "import heedful.commands.train"]
    return measure.run_child(command, out / "idle.log", 1).peak_gib


def measured(point: Point, out: Path, device: str) -> dict[str, Any]:
    """One point's row: seconds of a step, the first left out, and the peak of memory."""
    directory = out / "workloads" / point.name
    measure.make_workload(workload_settings(point), directory)
    work = ours.Work(
        point.work,
        "bf16",
        point.threads,
        batch_size=point.num_prompts,
        steps=STEPS,
        minibatch_size=max(1, point.num_prompts // 4),
        response_tokens=point.tokens // 2,
        device=device,
    )
    child, steps = ours.run(work, directory, out / "runs" / point.name)
    own = {} if device == "cpu" else {"device_peak_gib": steps.device_peak_gib}
    return {
        "name": point.name,
        **asdict(point),
        **own,
        "step_s": statistics.median(steps.seconds[1:]),
        "steps_s": steps.seconds,
        **{f"process_{key}": value for key, value in child._asdict().items()},
    }


def workload_settings(point: Point) -> dict[str, Any]:
    """Exactly the rows that the point's steps read."""
    shape = {
        "hidden_size": point.hidden,
        "num_layers": point.layers,
        "num_heads": max(1, point.hidden // 64),
        "mlp_size": point.mlp,
        "vocab_size": point.vocabulary,
    }
    none = {"demonstrations": 0, "comparisons": 0, "prompts": 0}
    name = {"sft": "demonstrations", "reward": "comparisons", "ppo": "prompts"}[point.work]
    half = point.tokens // 2
    lengths = {"prompt_tokens": [half, half], "response_tokens": half, "end_chance": 0.0}
    rows = none | {name: point.num_prompts * STEPS, "completions": point.completions}
    return {"shape": shape} | lengths | rows


def exponent(values: Sequence[float], results: Sequence[float]) -> float:
    """The slope of log(result) over log(value), by least squares."""
    logs = [[math.log(number) for number in numbers] for numbers in (values, results)]
    return statistics.linear_regression(*logs).slope


def report(
    works: Sequence[str],
    axes: Sequence[str],
    quick: bool,
    found: dict[str, dict[str, Any]],
    idle_gib: float,
    about: dict[str, Any],
) -> str:
    """The Markdown: a table and the exponents for every work and axis."""
    lines = ["# Time and memory of the steps", ""]
    lines += [" · ".join(f"{key} {value}" for key, value in about.items() if value), ""]
    for work in works:
        for axis in axes:
            points = line(work, axis, quick)
            if points:
                lines += [f"## {work}: {axis}", "", *section(points, axis, found, idle_gib), ""]
    return "\n".join(lines)


def section(
    points: list[Point], axis: str, found: dict[str, dict[str, Any]], idle_gib: float
) -> list[str]:
    """One axis: what was measured at its points, and how it grows."""
    counted = COUNTED.get(axis, AXES[axis][0])
    values = [getattr(point, counted) for point in points]
    rows = [found[point.name] for point in points]
    seconds = [row["step_s"] for row in rows]
    is_device = "device_peak_gib" in rows[0]
    memory = [row["device_peak_gib" if is_device else "process_peak_gib"] for row in rows]
    table = [
        (f"{value:,}", step_s, point.num_tokens / step_s, gib, f"{row['process_others']:.0%}")
        for value, point, row, step_s, gib in zip(
            values, points, rows, seconds, memory, strict=True
        )
    ]
    peak = "device peak GiB" if is_device else "peak GiB"
    head = [counted.removeprefix("num_"), "s/step", "tokens/s", peak, "others"]
    lines = [measure.markdown_table(head, table), ""]
    if axis == "threads":
        return [*lines, f"{seconds[0] / seconds[-1]:.2f} times as fast with {values[-1]}"]
    lines.append(f"time grows with exponent {exponent(values, seconds):.2f}")
    own = [gib - idle_gib for gib in memory]
    if min(own) > 0:
        what = "memory of the device" if is_device else "memory above an idle process"
        lines[-1] += f", {what} with {exponent(values, own):.2f}"
    return lines


if __name__ == "__main__":
    sys.exit(main())
