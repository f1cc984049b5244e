"""The largest model that a machine's memory holds in SFT and in PPO, ours and the peer's.

    python benchmarks/vs_trl.py --only sft,ppo --models base,medium --repeats 1 --out runs/memory \\
        --match heedful-bf16,peer-autocast,peer-bf16
    python benchmarks/largest.py runs/memory/results.json --gib 24

A line through the peak memory at two sizes says what a weight costs, and what there is besides;
where it meets the machine's memory is the largest model; of runs on CUDA it is the device's. Prints
a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import measure
from workload import SHAPES


class Line(NamedTuple):
    """Peak memory in bytes against the number of weights."""

    bytes_per_weight: float
    rest: float  # bytes without any weight

    def largest(self, memory: float) -> float:
        """The number of weights at which the peak reaches ``memory`` bytes."""
        return (memory - self.rest) / self.bytes_per_weight


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results.json of vs_trl.py at two sizes")
    parser.add_argument("--gib", type=float, default=24, help="memory (default: %(default)s)")
    options = parser.parse_args(arguments)
    runs = json.loads(options.results.read_text(encoding="utf-8"))["runs"]
    print(table(runs, options.gib))
    return 0


def table(runs: list[dict[str, Any]], gib: float) -> str:
    """A Markdown table, one line for each work and variant that was measured at two sizes."""
    rows = []
    for work, side, variant in dict.fromkeys(
        (run["work"], run["side"], " ".join(run["variant"])) for run in runs
    ):
        peaks = {
            SHAPES[run["model"]].num_weights: peak_gib(run) * 2**30
            for run in runs
            if (run["work"], run["side"], " ".join(run["variant"])) == (work, side, variant)
        }
        if len(peaks) >= 2:
            found = line_through(peaks)
            largest = found.largest(gib * 2**30)
            rows.append([work, f"{side} {variant}", found.bytes_per_weight, largest / 1e9])
    head = ["work", "", "bytes a weight", f"largest in {gib:g} GiB, billion weights"]
    return measure.markdown_table(head, rows)


def peak_gib(run: dict[str, Any]) -> float:
    """Memory of a run's device at its most; without one, of its process."""
    return run.get("device_peak_gib", run["process_peak_gib"])


def line_through(peaks: dict[int, float]) -> Line:
    """The line through the peaks of the smallest and the largest model."""
    small, large = min(peaks), max(peaks)
    slope = (peaks[large] - peaks[small]) / (large - small)
    return Line(slope, peaks[small] - slope * small)


if __name__ == "__main__":
    raise SystemExit(main())
