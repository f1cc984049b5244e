"""heed eval against lm-evaluation-harness: the same items, the same numbers, and how fast.

    python benchmarks/vs_lm_eval.py --data DIR              # all items: an hour on two cores
    python benchmarks/vs_lm_eval.py --data DIR --limit 50   # minutes

CrowS-Pairs and TruthfulQA MC1 and MC2 by the harness's own tasks over published files, and pairs
of Winogender sentences in the form of its CrowS-Pairs. Both sides score every choice with the same
random model (Llama shape, byte-level BPE of the items) in fp32; log-probabilities may differ by
1e-4. Installs the harness into an environment of its own (build/peers). Each side is a process of
its own; what is timed is tokenizing and scoring, without loading. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure

ROOT = measure.HERE.parent
PEER = "lm_eval>=0.4.9,<0.5"
TOLERANCE = 1e-4
BATCH_SIZES = (16, 64)  # of the harness; its faster one counts


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    install(options)
    task = {
        "data": str(options.data.resolve()),
        "out": str(options.out.resolve()),
        "limit": options.limit,
        "shape": options.shape,
    }
    run(sys.executable, "ours_eval.py", task | {"do": "make"}, options, "make")
    rows = []
    for repeat in range(options.repeats):
        name = f"ours-{repeat}"
        ours = run(sys.executable, "ours_eval.py", task | {"do": "score"}, options, name)
        rows.append({"side": "heedful", "variant": "packed", **ours})
        for size in BATCH_SIZES:
            python = options.peers / "lm-eval" / "bin" / "python"
            name = f"peer-{size}-{repeat}"
            theirs = run(python, "peer_eval.py", task | {"batch_size": size}, options, name)
            rows.append({"side": "lm-eval", "variant": f"batches of {size}", **theirs})
    found = compared(rows)
    report = written(found, options)
    (options.out / "results.md").write_text(report, encoding="utf-8")
    results = {"machine": measure.machine(), "threads": options.threads, **found}
    (options.out / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(report)
    return 0 if found["largest_difference"] <= TOLERANCE else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="as of heed eval")
    parser.add_argument("--limit", type=int, help="items per task (default: all)")
    parser.add_argument("--shape", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--out", type=Path, default=Path("runs/vs_lm_eval"))
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers")
    return parser.parse_args(arguments)


def install(options: argparse.Namespace) -> None:
    """Makes the harness's environment unless it is there, under our constraints.txt."""
    place = options.peers / "lm-eval"
    ready = place / ".ready"
    if ready.is_file() and ready.read_text(encoding="utf-8") == PEER:
        return
    print(f"installing {PEER} into {place}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet"]
    constraints = ["-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *constraints, PEER, "torch", "transformers", "accelerate"], check=True)
    ready.write_text(PEER, encoding="utf-8")


def run(
    python: str | Path, script: str, task: dict[str, Any], options: argparse.Namespace, name: str
) -> dict[str, Any]:
    """What one side's script writes down: seconds, log-probabilities and metrics."""
    out = options.out / f"{name}.json"
    file = options.out / f"{name}.task.json"
    values = task | {"result": str(out), "threads": options.threads}
    file.write_text(json.dumps(values, indent=1), encoding="utf-8")
    child = measure.run_child(
        [python, measure.HERE / script, file], options.out / f"{name}.log", options.threads
    )
    result = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    print(f"{name}: {result.get('seconds', child.seconds):.1f} s", flush=True)
    return result | {f"process_{key}": value for key, value in child._asdict().items()}


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest difference of any log-probability and metric, and the speeds."""
    ours = next(row for row in rows if row["side"] == "heedful")
    theirs = [row for row in rows if row["side"] == "lm-eval"]
    largest, num = 0.0, 0
    for row in theirs:
        for key, value in row["logprobs"].items():
            largest = max(largest, abs(value - ours["logprobs"][key]))
            num += 1
    metrics = {
        name: (ours["metrics"][name], theirs[0]["metrics"][name]) for name in ours["metrics"]
    }
    medians: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(f"{row['side']}, {row['variant']}" for row in rows):
        part = [row for row in rows if name == f"{row['side']}, {row['variant']}"]
        medians[name] = {
            unit: statistics.median(row[unit] for row in part) for unit in ("seconds", "cpu_s")
        }
    ratios = {}
    for unit in ("seconds", "cpu_s"):
        mine = next(row[unit] for name, row in medians.items() if name.startswith("heedful"))
        peer = [row[unit] for name, row in medians.items() if not name.startswith("heedful")]
        ratios[unit] = min(peer) / mine
    return {
        "largest_difference": largest,
        "num_choices": num // len(theirs),
        "metrics": metrics,
        "medians": medians,
        "times_as_fast": ratios,
        "others": max(row["process_others"] for row in rows),
    }


def written(found: dict[str, Any], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    machine = measure.machine()
    parts = [
        f"commit {machine['commit']}, {machine['processor']}, {options.threads} threads, "
        f"{options.repeats} repeats; other processes had up to {found['others']:.0%} of the cores",
        measure.markdown_table(
            ["metric", "heedful", "lm-eval"],
            [[name, f"{a:.6f}", f"{b:.6f}"] for name, (a, b) in found["metrics"].items()],
        ),
        f"{found['num_choices']:,} choices; the log-probabilities differ by "
        f"{found['largest_difference']:.1e} at most.",
        measure.markdown_table(
            ["side", "seconds", "of the processor"],
            [[name, row["seconds"], row["cpu_s"]] for name, row in found["medians"].items()],
        ),
        f"heedful is {found['times_as_fast']['seconds']:.2f} times as fast as the harness at its "
        f"best, and takes 1 / {found['times_as_fast']['cpu_s']:.2f} of its processor time.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
